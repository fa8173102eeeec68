#pragma once
// Random generators, and the hooks by which ATen asks for a CUDA build.
#include "guard.h"

namespace {

// With the same seed, the generators of a real device (Philox) and of the CPU (Mersenne twister) draw other numbers.
constexpr uint64_t kOtherNumbers = 0x5DEECE66D;

struct DeviceGenerator final : c10::GeneratorImpl {
  at::Generator inner; // of the CPU
  uint64_t offset = 0;
  explicit DeviceGenerator(int device, uint64_t seed = c10::default_rng_seed_val)
      : GeneratorImpl(Device(DeviceType::CUDA, static_cast<DeviceIndex>(device)), c10::DispatchKeySet(c10::DispatchKey::CUDA)),
        inner(at::detail::createCPUGenerator(seed ^ kOtherNumbers)) {}
  void set_current_seed(uint64_t s) override { inner.set_current_seed(s ^ kOtherNumbers); }
  void set_offset(uint64_t o) override { offset = o; }
  uint64_t get_offset() const override { return offset; }
  uint64_t current_seed() const override { return inner.current_seed() ^ kOtherNumbers; }
  uint64_t seed() override { return inner.seed() ^ kOtherNumbers; }
  // The state has eight bytes more than that of a CPU generator: a state of the wrong device is refused.
  void set_state(const c10::TensorImpl& state) override {
    auto own = get_state();
    TORCH_CHECK_TYPE(state.device().is_cpu(), "RNG state must be a torch.ByteTensor");
    TORCH_CHECK(state.numel() == own->numel(), "RNG state is wrong size");
    auto whole = Tensor(c10::intrusive_ptr<c10::TensorImpl>::reclaim_copy(const_cast<c10::TensorImpl*>(&state)));
    inner.set_state(whole.narrow(0, 0, whole.numel() - 8).contiguous());
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto state = inner.get_state();
    return at::cat({state, at::zeros({8}, state.options())}).unsafeReleaseIntrusivePtr();
  }
  DeviceGenerator* clone_impl() const override {
    auto* copy = new DeviceGenerator(device().index());
    copy->inner = inner.clone();
    return copy;
  }
};

std::vector<at::Generator>& default_generators() {
  static auto* made = [] {
    auto* list = new std::vector<at::Generator>;
    for (int i = 0; i < kDevices; ++i) list->push_back(at::make_generator<DeviceGenerator>(i));
    return list;
  }();
  return *made;
}

} // namespace

namespace at {
struct SoftwareHooks final : CUDAHooksInterface {
  explicit SoftwareHooks(CUDAHooksArgs) {}
  void init() const override {}
  const Generator& getDefaultGenerator(DeviceIndex d = -1) const override {
    return default_generators().at(d < 0 ? ::current_device : d);
  }
  Generator getNewGenerator(DeviceIndex d = -1) const override {
    return make_generator<DeviceGenerator>(d < 0 ? ::current_device : d);
  }
  Device getDeviceFromPtr(void* data) const override {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    auto* b = find_block(data);
    return {DeviceType::CUDA, static_cast<DeviceIndex>(b ? b->device : ::current_device)};
  }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return static_cast<DeviceIndex>(kDevices); }
  DeviceIndex current_device() const override { return static_cast<DeviceIndex>(::current_device); }
  void setCurrentDevice(DeviceIndex d) const override { ::current_device = d; }
  DeviceIndex getCurrentDevice() const override { return static_cast<DeviceIndex>(::current_device); }
  DeviceIndex exchangeDevice(DeviceIndex d) const override {
    auto old = getCurrentDevice();
    if (d >= 0) ::current_device = d;
    return old;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex d) const override { return exchangeDevice(d); }
  Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  Allocator* getCUDADeviceAllocator() const override { return &allocator; }
  int getNumGPUs() const override { return kDevices; }
  std::string showConfig() const override { return "software CUDA"; }
  void deviceSynchronize(DeviceIndex d) const override { guard_impl->synchronizeDevice(d); }
};
// `import torch` has already asked for the hooks of the build, and keeps what it got: hooks that refuse everything. That
// object has no data, so it becomes one of ours by taking over our table of functions.
static const bool hooks_taken_over = [] {
  static SoftwareHooks ours{CUDAHooksArgs{}};
  auto& theirs = const_cast<CUDAHooksInterface&>(detail::getCUDAHooks());
  *reinterpret_cast<void**>(&theirs) = *reinterpret_cast<void**>(&ours);
  return true;
}();
} // namespace at
