#pragma once
// Memory of the devices, of the pinned host allocator, and what each stream has done with it.
#include "streams.h"

namespace {

struct Block {
  size_t size = 0;
  bool pinned = false;
  int device = 0;
  int home = 0; // the stream it was allocated on
  int write_actor = -1;
  uint64_t write_clock = 0;
  std::map<int, uint64_t> reads;
  std::set<int> recorded;
};
std::map<uintptr_t, Block> blocks;

Block* find_block(const void* p) {
  auto at = reinterpret_cast<uintptr_t>(p);
  auto it = blocks.upper_bound(at);
  if (it == blocks.begin()) return nullptr;
  --it;
  return at < it->first + std::max<size_t>(it->second.size, 1) ? &it->second : nullptr;
}

struct Pending { // a copy between pinned memory and the device that the host has not been told is complete
  int who;
  uint64_t clock;
  Tensor to, from; // on the host; `from` undefined: a copy to the device, whose source must not change
  size_t hash;
};
std::list<Pending> pending;

size_t hash_of(const Tensor& t) {
  if (!t.is_contiguous()) return 0;
  size_t h = 1469598103934665603ull;
  auto* p = static_cast<const unsigned char*>(t.const_data_ptr());
  for (size_t i = 0, n = t.nbytes(); i < n; i += (n > 65536 ? 61 : 1)) h = (h ^ p[i]) * 1099511628211ull;
  return h;
}

void poison(const Tensor& t) {
  if (t.is_contiguous()) memset(t.mutable_data_ptr(), 0xFF, t.nbytes());
}

void settle(const Clock& seen) { // makes visible what is complete by this clock
  if (pending.empty()) return;
  std::list<Pending> done;
  for (auto it = pending.begin(); it != pending.end();) {
    auto next = std::next(it);
    if (it->clock <= at_clock(seen, it->who)) done.splice(done.end(), pending, it);
    it = next;
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  for (auto& p : done) {
    if (p.from.defined()) p.to.copy_(p.from);
    else if (p.hash != hash_of(p.to)) report("pinned memory was changed while a non-blocking copy from it to the device was under way");
  }
}

// Before a copy into pinned memory: those from it that this one comes after have read it.
void settle_reads(Block* of, const Clock& seen) {
  pending.remove_if([&](const Pending& p) {
    bool done = !p.from.defined() && find_block(p.to.const_data_ptr()) == of && p.clock <= at_clock(seen, p.who);
    if (done && p.hash != hash_of(p.to)) report("pinned memory was changed while a non-blocking copy from it to the device was under way");
    return done;
  });
}

void host_sees(const Clock& c) {
  merge(clocks[0], c);
  settle(clocks[0]);
}

void touch(Block* b, int who, bool writes) {
  if (!b) return;
  const auto& seen = clocks[who];
  auto unordered = [&](int other, uint64_t clock) { return other >= 0 && other != who && clock > at_clock(seen, other); };
  if (unordered(b->write_actor, b->write_clock))
    report(actor_name(who) + (writes ? " writes" : " reads") + " what " + actor_name(b->write_actor) + " wrote, with no event between them");
  if (writes) {
    for (auto& [other, clock] : b->reads)
      if (unordered(other, clock)) report(actor_name(who) + " overwrites what " + actor_name(other) + " may still be reading");
    b->reads.clear();
    b->write_actor = who;
    b->write_clock = at_clock(seen, who);
  } else {
    b->reads[who] = at_clock(seen, who);
  }
}

int launch(int device) { // a kernel begins on the current stream of the device
  int who = current_actor(device);
  merge(clocks[who], clocks[0]);
  tick(who);
  return who;
}

struct Usage {
  int64_t live = 0, peak = 0, reserved = 0, reserved_peak = 0, allocations = 0, frees = 0, total_allocated = 0;
  int64_t total = env("SOFTWARE_CUDA_TOTAL_MIB", 80 * 1024) << 20;
  int64_t count = 0, ooms = 0;
};
std::array<Usage, kMaxDevices> usage;

int64_t rounded(size_t n) { return static_cast<int64_t>((n + 511) / 512 * 512); }
int64_t segment(int64_t n) { return (n + (2 << 20) - 1) >> 21 << 21; }
std::string in_mib(int64_t n) {
  char text[64];
  snprintf(text, sizeof text, "%.2f MiB", n / 1048576.0);
  return text;
}

void count_in(int device, size_t n) {
  auto& u = usage[device];
  auto size = rounded(n);
  if (u.live + size > u.total) {
    u.ooms++;
    TORCH_CHECK_WITH(
        OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", in_mib(size), ". GPU ", device,
        " has a total capacity of ", in_mib(u.total), " of which ", in_mib(u.total - u.live), " is free.");
  }
  u.live += size;
  u.total_allocated += size;
  u.allocations++;
  u.count++;
  u.peak = std::max(u.peak, u.live);
  u.reserved = std::max(u.reserved, segment(u.live));
  u.reserved_peak = std::max(u.reserved_peak, u.reserved);
}

struct Held { // the context of a CUDA storage's pointer
  void* data;
  size_t size;
  int device;
  Storage from; // the host storage that owns the memory, or none: own memory
};

void release(void* context) {
  auto* held = static_cast<Held*>(context);
  {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    auto it = blocks.find(reinterpret_cast<uintptr_t>(held->data));
    if (it != blocks.end() && !it->second.pinned) {
      auto& b = it->second;
      auto check = [&](int who, uint64_t clock) {
        if (who > 0 && who != b.home && clock > at_clock(clocks[b.home], who) && !b.recorded.count(who)) {
          try {
            report("memory of " + actor_name(b.home) + " was freed while " + actor_name(who) + " uses it, without record_stream");
          } catch (...) { // a deleter must not throw
          }
        }
      };
      check(b.write_actor, b.write_clock);
      for (auto& [who, clock] : b.reads) check(who, clock);
      blocks.erase(it);
    }
    auto& u = usage[held->device];
    u.live -= rounded(held->size);
    u.count--;
    u.frees++;
  }
  if (!held->from) std::free(held->data);
  delete held;
}

void enter(void* data, size_t size, int device, bool written) {
  Block b;
  b.size = size;
  b.device = device;
  b.home = current_actor(device);
  if (written) {
    b.write_actor = b.home;
    b.write_clock = at_clock(clocks[b.home], b.home);
  }
  blocks[reinterpret_cast<uintptr_t>(data)] = b;
}

struct DeviceAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t n) override {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    Device device(DeviceType::CUDA, current_device);
    if (!n) return {nullptr, nullptr, &release_nothing, device};
    count_in(current_device, n);
    void* data = nullptr;
    TORCH_CHECK(posix_memalign(&data, 64, n) == 0, "software cuda: the host has no memory for ", n, " bytes");
    if (kPoison) memset(data, 0xFF, std::min<size_t>(n, 1 << 24));
    enter(data, n, current_device, true); // other streams come after what had this memory before on its own stream
    auto* held = new Held{data, n, current_device, Storage()};
    return {data, held, &release, device};
  }
  static void release_nothing(void*) {}
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t n) const override { memcpy(to, from, n); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t = {0, 0}) override {
    for (auto& u : usage) u.reserved = segment(u.live);
  }
  void recordStream(const c10::DataPtr& p, Stream s) override {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    if (auto* b = find_block(p.get())) b->recorded.insert(actor(s));
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex d) override {
    c10::CachingDeviceAllocator::DeviceStats s;
    auto& u = usage[d];
    s.allocated_bytes[0].current = u.live;
    s.allocated_bytes[0].peak = u.peak;
    s.reserved_bytes[0].current = u.reserved;
    s.reserved_bytes[0].peak = u.reserved_peak;
    return s;
  }
  void resetAccumulatedStats(DeviceIndex) override {}
  void resetPeakStats(DeviceIndex d) override {
    usage[d].peak = usage[d].live;
    usage[d].reserved_peak = usage[d].reserved;
  }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex d) override {
    return {usage[d].total - usage[d].reserved, usage[d].total};
  }
};
DeviceAllocator allocator;

int64_t pinned_bytes = 0, pinned_peak = 0;
// As CachingHostAllocatorImpl::allocate (ATen/core/CachingHostAllocator.h): rounded up to a power of two, if not too large.
int64_t pinned_size(size_t n) {
  bool rounds = n <= c10::CachingAllocator::AcceleratorAllocatorConfig::pinned_max_round_threshold();
  return static_cast<int64_t>(rounds ? std::bit_ceil(std::max<size_t>(n, 1)) : n);
}

struct PinnedAllocator final : at::HostAllocator {
  c10::DataPtr allocate(size_t n) override {
    void* data = nullptr;
    TORCH_CHECK(posix_memalign(&data, 64, std::max<size_t>(n, 1)) == 0, "software cuda: no host memory");
    std::lock_guard<std::recursive_mutex> lock(mutex);
    Block b;
    b.size = n;
    b.pinned = true;
    blocks[reinterpret_cast<uintptr_t>(data)] = b;
    pinned_bytes += pinned_size(n);
    pinned_peak = std::max(pinned_peak, pinned_bytes);
    return {data, data, &free_pinned, DeviceType::CPU};
  }
  static void free_pinned(void* data) {
    {
      std::lock_guard<std::recursive_mutex> lock(mutex);
      auto it = blocks.find(reinterpret_cast<uintptr_t>(data));
      if (it != blocks.end()) {
        pinned_bytes -= pinned_size(it->second.size);
        blocks.erase(it);
      }
    }
    std::free(data);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, std::size_t n) const override { memcpy(to, from, n); }
  bool record_event(void*, void*, Stream) override { return true; }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
};
PinnedAllocator pinned_allocator;

bool is_pinned(const void* p) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  auto* b = find_block(p);
  return b && b->pinned;
}

} // namespace
