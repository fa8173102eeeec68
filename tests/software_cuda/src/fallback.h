#pragma once
// Runs every operator that has no kernel of its own here: CUDA tensors are aliased as CPU tensors over the same memory, the
// CPU kernel runs, and its results become CUDA tensors without a copy. A mix of devices is refused as a real build does.
#include "hooks.h"

namespace {

struct Aliases { // of one call
  std::unordered_map<StorageImpl*, Storage> cpu_of; // CUDA storage -> host storage
  std::unordered_map<StorageImpl*, Storage> cuda_of; // host storage -> CUDA storage
  std::vector<std::pair<Tensor, Tensor>> pairs; // (CUDA, alias)

  Tensor to_cpu(const Tensor& t) {
    for (auto& [cuda, cpu] : pairs)
      if (cuda.unsafeGetTensorImpl() == t.unsafeGetTensorImpl()) return cpu;
    TORCH_CHECK(t.layout() == at::kStrided && t.has_storage(), "software cuda: no support for ", t.toString(), " in ", current_op);
    auto* key = t.storage().unsafeGetStorageImpl();
    auto it = cpu_of.find(key);
    if (it == cpu_of.end()) {
      auto* keep = new Storage(t.storage());
      Storage cpu(
          Storage::use_byte_size_t(), t.storage().nbytes(),
          c10::DataPtr(keep->mutable_data(), keep, [](void* p) { delete static_cast<Storage*>(p); }, DeviceType::CPU),
          c10::GetAllocator(DeviceType::CPU), true);
      it = cpu_of.emplace(key, cpu).first;
      cuda_of.emplace(cpu.unsafeGetStorageImpl(), t.storage());
    }
    auto alias = at::detail::make_tensor<c10::TensorImpl>(
        Storage(it->second), c10::DispatchKeySet(c10::DispatchKey::CPU), t.dtype());
    shape_like(alias, t);
    if (t.unsafeGetTensorImpl()->is_wrapped_number()) alias.unsafeGetTensorImpl()->set_wrapped_number(true);
    pairs.emplace_back(t, alias);
    return alias;
  }

  static void shape_like(const Tensor& to, const Tensor& from) {
    to.unsafeGetTensorImpl()->set_sizes_and_strides(from.sizes(), from.strides(), from.storage_offset());
    if (from.is_conj()) to._set_conj(true);
    if (from.is_neg()) to._set_neg(true);
  }

  Tensor to_cuda(const Tensor& r, int device) {
    if (!r.defined() || !r.device().is_cpu()) return r;
    for (auto& [cuda, cpu] : pairs)
      if (cpu.unsafeGetTensorImpl() == r.unsafeGetTensorImpl()) return cuda;
    TORCH_CHECK(r.layout() == at::kStrided && r.has_storage(), "software cuda: ", current_op, " gave a ", r.toString());
    auto* key = r.storage().unsafeGetStorageImpl();
    auto it = cuda_of.find(key);
    if (it == cuda_of.end()) {
      Storage cuda(
          Storage::use_byte_size_t(), r.storage().nbytes(), wrap(r.storage(), device), &allocator, true);
      it = cuda_of.emplace(key, cuda).first;
    }
    auto t = at::detail::make_tensor<c10::TensorImpl>(
        Storage(it->second), c10::DispatchKeySet(c10::DispatchKey::CUDA), r.dtype());
    shape_like(t, r);
    return t;
  }

  static c10::DataPtr wrap(const Storage& cpu, int device) {
    Device d(DeviceType::CUDA, static_cast<DeviceIndex>(device));
    if (!cpu.nbytes()) return {nullptr, nullptr, &DeviceAllocator::release_nothing, d};
    count_in(device, cpu.nbytes());
    void* data = cpu.mutable_data();
    enter(data, cpu.nbytes(), device, true);
    return {data, new Held{data, cpu.nbytes(), device, cpu}, &release, d};
  }

  void settle_metadata(int device) { // what in-place and out= operators changed of their arguments
    for (auto& [cuda, cpu] : pairs) {
      auto cs = cuda.storage();
      auto hs = cpu.storage();
      auto known = cpu_of.find(cs.unsafeGetStorageImpl());
      if (known != cpu_of.end() && hs.unsafeGetStorageImpl() == known->second.unsafeGetStorageImpl() &&
          (hs.data() != cs.data() || hs.nbytes() != cs.nbytes())) {
        auto bytes = hs.nbytes();
        cs.unsafeGetStorageImpl()->set_data_ptr_noswap(wrap(hs, device));
        cs.unsafeGetStorageImpl()->set_nbytes(bytes);
      }
      if (cuda.sizes() != cpu.sizes() || cuda.strides() != cpu.strides() || cuda.storage_offset() != cpu.storage_offset())
        cuda.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
    }
  }
};

const std::set<std::string> kHostIndices{"indices"}; // arguments that may be on the host where self is on the device
const std::set<std::string> kSyncing{
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::equal",
    "aten::_local_scalar_dense", "aten::repeat_interleave", "aten::bincount"};

struct Plan { // what a schema says, once per operator
  std::vector<bool> writes, generator, host_indices;
  bool view = false, seeded = false, syncs = false;
};

const Plan& plan_of(const c10::OperatorHandle& op) {
  static std::unordered_map<const c10::FunctionSchema*, Plan> plans;
  auto& schema = op.schema();
  auto it = plans.find(&schema);
  if (it != plans.end()) return it->second;
  Plan plan;
  bool has_generator = false, any_write = false;
  for (auto& a : schema.arguments()) {
    bool write = a.alias_info() && a.alias_info()->isWrite();
    any_write |= write;
    plan.writes.push_back(write);
    bool gen = a.type()->str() == "Generator?" || a.type()->str() == "Generator";
    has_generator |= gen;
    plan.generator.push_back(gen);
    plan.host_indices.push_back(kHostIndices.count(a.name()) > 0);
  }
  for (auto& r : schema.returns()) plan.view |= r.alias_info() && !r.alias_info()->isWrite();
  plan.view &= !any_write;
  plan.seeded = !has_generator && op.hasTag(at::Tag::nondeterministic_seeded);
  plan.syncs = kSyncing.count(schema.name()) > 0;
  for (auto& r : schema.returns())
    plan.syncs |= r.type()->kind() != c10::TypeKind::TensorType && r.type()->kind() != c10::TypeKind::ListType;
  return plans.emplace(&schema, plan).first->second;
}

std::map<std::string, int64_t> op_counts;
std::map<std::string, int64_t> host_scalars; // operators that are no pointwise ones and got a scalar tensor of the host

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  auto& schema = op.schema();
  auto& plan = plan_of(op);
  current_op = schema.name() + (schema.overload_name().empty() ? "" : "." + schema.overload_name());
  op_counts[current_op]++;
  const auto count = schema.arguments().size();
  const auto begin = stack->size() - count;

  int device = -1;
  auto meet = [&](const Tensor& t) {
    if (!t.defined() || !t.is_cuda()) return;
    if (device < 0) device = t.device().index();
    TORCH_CHECK(
        device == t.device().index(), "Expected all tensors to be on the same device, but found at least two devices, cuda:",
        device, " and cuda:", static_cast<int>(t.device().index()), "! (in ", current_op, ")");
  };
  auto each = [&](size_t i, auto&& visit) {
    auto& v = (*stack)[begin + i];
    if (v.isTensor()) visit(v.toTensor());
    else if (v.isTensorList()) for (const Tensor& t : v.toTensorList()) visit(t);
    else if (v.isOptionalTensorList()) for (const std::optional<Tensor> t : v.toOptionalTensorList()) { if (t) visit(*t); }
    else if (v.isList() && v.toListRef().size() && v.toListRef()[0].isTensor()) for (auto& t : v.toListRef()) visit(t.toTensor());
  };
  for (size_t i = 0; i < count; ++i) {
    each(i, meet);
    auto& v = (*stack)[begin + i];
    if (device < 0 && v.isDevice() && v.toDevice().is_cuda()) device = v.toDevice().has_index() ? v.toDevice().index() : current_device;
  }
  if (device < 0) device = current_device;
  for (size_t i = 0; i < count; ++i) {
    if (plan.host_indices[i]) continue;
    each(i, [&](const Tensor& t) {
      // A scalar of the host may stand for a number, but the kernels of fused optimizers read these where they are.
      if (t.defined() && t.device().is_cpu() && (t.dim() > 0 || schema.arguments()[i].name() == "state_steps")) {
        TORCH_CHECK(
            false, "Expected all tensors to be on the same device, but got ", schema.arguments()[i].name(), " is on ", t.device(),
            ", different from other tensors on cuda:", device, " (when checking argument in method wrapper_CUDA_", current_op, ")");
      }
      if (t.defined() && t.device().is_cpu() && t.dim() == 0 && !t.unsafeGetTensorImpl()->is_wrapped_number() &&
          !op.hasTag(at::Tag::pointwise))
        host_scalars[current_op + " " + schema.arguments()[i].name()]++;
      if (t.defined() && t.device().is_meta()) TORCH_CHECK(false, "software cuda: a meta tensor in ", current_op);
    });
  }

  int who = -1;
  if (!plan.view) {
    who = launch(device);
    for (size_t i = 0; i < count; ++i)
      each(i, [&](const Tensor& t) {
        if (t.defined() && t.is_cuda() && t.has_storage() && t.numel()) touch(find_block(t.storage().data()), who, plan.writes[i]);
      });
  }

  Aliases aliases;
  auto alias = [&](const Tensor& t) { return t.defined() && t.is_cuda() ? aliases.to_cpu(t) : t; };
  at::Generator* wanted = nullptr;
  for (size_t i = 0; i < count; ++i) {
    auto& v = (*stack)[begin + i];
    if (v.isTensor()) {
      v = alias(v.toTensor());
    } else if (v.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : v.toTensorList()) list.push_back(alias(t));
      v = list;
    } else if (v.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const std::optional<Tensor> t : v.toOptionalTensorList()) list.push_back(t ? std::optional<Tensor>(alias(*t)) : t);
      v = list;
    } else if (v.isDevice() && v.toDevice().is_cuda()) {
      v = Device(DeviceType::CPU);
    } else if (plan.generator[i]) {
      if (v.isNone()) {
        v = static_cast<DeviceGenerator*>(default_generators()[device].unsafeGetGeneratorImpl())->inner;
      } else {
        auto g = v.toGenerator();
        TORCH_CHECK(g.device().is_cuda(), "Expected a 'cuda' device type for generator but found '", g.device().type(), "'");
        v = static_cast<DeviceGenerator*>(g.unsafeGetGeneratorImpl())->inner;
      }
    }
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    if (plan.seeded) { // it draws from the default generator: lend it ours
      auto cpu = at::detail::getDefaultCPUGenerator();
      auto& mine = static_cast<DeviceGenerator*>(default_generators()[device].unsafeGetGeneratorImpl())->inner;
      auto theirs = cpu.get_state();
      cpu.set_state(mine.get_state());
      op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
      mine.set_state(cpu.get_state());
      cpu.set_state(theirs);
    } else {
      op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    }
  }
  int before = current_device;
  aliases.settle_metadata(device);
  const auto returned = schema.returns().size();
  for (size_t i = stack->size() - returned; i < stack->size(); ++i) {
    auto& v = (*stack)[i];
    if (v.isTensor()) {
      v = aliases.to_cuda(v.toTensor(), device);
    } else if (v.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : v.toTensorList()) list.push_back(aliases.to_cuda(t, device));
      v = list;
    }
  }
  current_device = before;
  if (plan.syncs && who >= 0) {
    ++synchronizations[schema.name()];
    host_sees(clocks[who]);
  }
}

} // namespace
