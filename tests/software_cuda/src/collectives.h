#pragma once
// The `nccl` backend: takes CUDA tensors only, and sends them through gloo. Every collective is complete when it returns.
#include "kernels.h"

namespace {

using c10d::Work;
using Tensors = std::vector<Tensor>;
using WorkPtr = c10::intrusive_ptr<Work>;

struct Done final : Work { // every collective is complete when it returns; on a device, for the current stream
  Tensors tensors;
  c10::intrusive_ptr<c10::ivalue::Future> future;
  explicit Done(Tensors t) : tensors(std::move(t)) {
    std::vector<Device> devices;
    for (auto& x : tensors) if (devices.empty()) devices.push_back(x.device());
    future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()), devices);
    future->markCompleted(c10::IValue(tensors));
  }
  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  void synchronize() override {}
  bool wait(std::chrono::milliseconds) override { return true; }
  Tensors result() override { return tensors; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future; }
};

struct NcclOverGloo final : c10d::Backend {
  c10::intrusive_ptr<c10d::Backend> inner;
  explicit NcclOverGloo(c10::intrusive_ptr<c10d::Backend> gloo) : Backend(gloo->getRank(), gloo->getSize()), inner(std::move(gloo)) {}
  const std::string getBackendName() const override { return "nccl"; }
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return 0; }

  Tensor cpu(const Tensor& t, bool writes) {
    TORCH_CHECK(t.is_cuda(), "No backend type associated with device type ", t.device().type(), ": nccl takes CUDA tensors only");
    TORCH_CHECK(t.is_non_overlapping_and_dense(), "Tensors must be contiguous");
    std::lock_guard<std::recursive_mutex> lock(mutex);
    current_op = "nccl";
    if (t.numel()) touch(find_block(t.storage().data()), launch(t.device().index()), writes);
    Aliases a;
    return a.to_cpu(t);
  }
  Tensors cpu(const Tensors& ts, bool writes) {
    Tensors out;
    for (auto& t : ts) out.push_back(cpu(t, writes));
    return out;
  }
  template <typename F>
  static void run(F&& f) {
    at::AutoDispatchBelowADInplaceOrView below;
    f()->wait();
  }
  template <typename Options>
  static bool averages(Options& opts) {
    if (opts.reduceOp != c10d::ReduceOp(c10d::ReduceOp::AVG)) return false;
    opts.reduceOp = c10d::ReduceOp(c10d::ReduceOp::SUM);
    return true;
  }
  WorkPtr done(Tensors t) { return c10::make_intrusive<Done>(std::move(t)); }

  WorkPtr broadcast(Tensors& ts, const c10d::BroadcastOptions& o) override {
    auto c = cpu(ts, true);
    run([&] { return inner->broadcast(c, o); });
    return done(ts);
  }
  WorkPtr allreduce(Tensors& ts, const c10d::AllreduceOptions& opts) override {
    auto o = opts;
    bool mean = averages(o);
    auto c = cpu(ts, true);
    run([&] { return inner->allreduce(c, o); });
    if (mean) for (auto& t : c) t.div_(getSize());
    return done(ts);
  }
  WorkPtr allreduce_coalesced(Tensors& ts, const c10d::AllreduceCoalescedOptions& opts) override {
    for (auto& t : ts) {
      Tensors one{t};
      allreduce(one, opts);
    }
    return done(ts);
  }
  WorkPtr reduce(Tensors& ts, const c10d::ReduceOptions& opts) override {
    auto o = opts;
    bool mean = averages(o);
    auto c = cpu(ts, true);
    run([&] { return inner->reduce(c, o); });
    if (mean && getRank() == o.rootRank) for (auto& t : c) t.div_(getSize());
    return done(ts);
  }
  WorkPtr allgather(std::vector<Tensors>& outs, Tensors& ins, const c10d::AllgatherOptions& o) override {
    std::vector<Tensors> co;
    for (auto& list : outs) co.push_back(cpu(list, true));
    auto ci = cpu(ins, false);
    run([&] { return inner->allgather(co, ci, o); });
    return done(outs[0]);
  }
  WorkPtr _allgather_base(Tensor& out, Tensor& in, const c10d::AllgatherOptions& o) override {
    auto ci = cpu(in, false).contiguous().view({-1});
    auto co = cpu(out, true).view({-1});
    Tensors parts, one{ci.clone()}; // `in` may be a part of `out`
    for (auto& part : co.chunk(getSize())) parts.push_back(at::empty_like(part));
    std::vector<Tensors> lists{parts};
    run([&] { return inner->allgather(lists, one, o); });
    at::AutoDispatchBelowADInplaceOrView below;
    co.copy_(at::cat(lists[0]));
    return done({out});
  }
  WorkPtr allgather_into_tensor_coalesced(Tensors& outs, Tensors& ins, const c10d::AllgatherOptions& o) override {
    for (size_t i = 0; i < outs.size(); ++i) _allgather_base(outs[i], ins[i], o);
    return done(outs);
  }
  WorkPtr _reduce_scatter_base(Tensor& out, Tensor& in, const c10d::ReduceScatterOptions& o) override {
    at::AutoDispatchBelowADInplaceOrView below;
    auto co = cpu(out, true).view({-1});
    Tensors whole{cpu(in, false).contiguous().view({-1}).clone()};
    c10d::AllreduceOptions all;
    all.reduceOp = o.reduceOp;
    bool mean = averages(all);
    run([&] { return inner->allreduce(whole, all); });
    auto mine = whole[0].chunk(getSize())[getRank()];
    if (mean) mine.div_(getSize());
    co.copy_(mine);
    return done({out});
  }
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outs, Tensors& ins, const c10d::ReduceScatterOptions& o) override {
    for (size_t i = 0; i < outs.size(); ++i) _reduce_scatter_base(outs[i], ins[i], o);
    return done(outs);
  }
  WorkPtr reduce_scatter(Tensors& outs, std::vector<Tensors>& ins, const c10d::ReduceScatterOptions& o) override {
    auto whole = at::cat(ins[0]);
    return _reduce_scatter_base(outs[0], whole, o);
  }
  WorkPtr gather(std::vector<Tensors>& outs, Tensors& ins, const c10d::GatherOptions& o) override {
    std::vector<Tensors> co;
    for (auto& list : outs) co.push_back(cpu(list, true));
    auto ci = cpu(ins, false);
    run([&] { return inner->gather(co, ci, o); });
    return done(outs.empty() ? Tensors{} : outs[0]);
  }
  WorkPtr scatter(Tensors& outs, std::vector<Tensors>& ins, const c10d::ScatterOptions& o) override {
    std::vector<Tensors> ci;
    for (auto& list : ins) ci.push_back(cpu(list, false));
    auto co = cpu(outs, true);
    run([&] { return inner->scatter(co, ci, o); });
    return done(outs);
  }
  WorkPtr alltoall_base(
      Tensor& out, Tensor& in, std::vector<int64_t>& os, std::vector<int64_t>& is, const c10d::AllToAllOptions& o) override {
    auto co = cpu(out, true), ci = cpu(in, false);
    run([&] { return inner->alltoall_base(co, ci, os, is, o); });
    return done({out});
  }
  WorkPtr send(Tensors& ts, int to, int tag) override {
    auto c = cpu(ts, false);
    run([&] { return inner->send(c, to, tag); });
    return done(ts);
  }
  WorkPtr recv(Tensors& ts, int from, int tag) override {
    auto c = cpu(ts, true);
    run([&] { return inner->recv(c, from, tag); });
    return done(ts);
  }
  WorkPtr barrier(const c10d::BarrierOptions& o) override {
    run([&] { return inner->barrier(o); });
    return done({});
  }
};

} // namespace

namespace c10d {
struct HostTimer final : Timer {
  explicit HostTimer(c10::Device) {}
  std::optional<int64_t> measureDifference(Event start, Event end) override { return getTimeRef(end) - getTimeRef(start); }
};
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, HostTimer)
} // namespace c10d
