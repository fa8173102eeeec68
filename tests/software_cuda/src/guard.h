#pragma once
// The device guard: current device, streams, events and synchronization.
#include "memory.h"

namespace {

struct Event {
  Clock clock;
  int who = -1;
  double time = 0;
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device d) const override {
    auto old = getDevice();
    setDevice(d);
    return old;
  }
  Device getDevice() const override { return {DeviceType::CUDA, static_cast<DeviceIndex>(current_device)}; }
  void setDevice(Device d) const override {
    TORCH_CHECK(d.index() < kDevices, "CUDA error: invalid device ordinal");
    if (d.index() >= 0) current_device = d.index();
  }
  void uncheckedSetDevice(Device d) const noexcept override {
    if (d.index() >= 0) current_device = d.index();
  }
  static int index(Device d) { return d.index() < 0 ? current_device : d.index(); }
  static Stream make(int device, int id) {
    return Stream(Stream::UNSAFE, Device(DeviceType::CUDA, static_cast<DeviceIndex>(device)), id);
  }
  Stream getStream(Device d) const override { return make(index(d), current_stream[index(d)]); }
  Stream getDefaultStream(Device d) const override { return make(index(d), 0); }
  Stream getNewStream(Device d, int = 0) const override {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    int device = index(d);
    return make(device, 1 + streams_made[device]++ % (kStreamsPerDevice - 1));
  }
  Stream getStreamFromGlobalPool(Device d, bool) const override { return getNewStream(d, 0); }
  Stream exchangeStream(Stream s) const override {
    auto old = getStream(s.device());
    current_stream[s.device_index()] = static_cast<int>(s.id());
    return old;
  }
  void* getStreamNativeHandle(const Stream s) const override { return reinterpret_cast<void*>(s.id()); }
  void record(void** event, const Stream& s, const DeviceIndex, const c10::EventFlag) const override {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    if (!*event) *event = new Event;
    auto* e = static_cast<Event*>(*event);
    int who = actor(s);
    merge(clocks[who], clocks[0]);
    tick(who);
    e->clock = clocks[who];
    e->who = who;
    e->time = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  void block(void* event, const Stream& s) const override {
    if (!event) return;
    std::lock_guard<std::recursive_mutex> lock(mutex);
    merge(clocks[actor(s)], static_cast<Event*>(event)->clock);
  }
  bool queryEvent(void* event) const override {
    if (event) synchronizeEvent(event);
    return true;
  }
  void synchronizeEvent(void* event) const override {
    if (!event) return;
    std::lock_guard<std::recursive_mutex> lock(mutex);
    ++synchronizations["event"];
    host_sees(static_cast<Event*>(event)->clock);
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  DeviceIndex deviceCount() const noexcept override { return static_cast<DeviceIndex>(kDevices); }
  bool queryStream(const Stream& s) const override {
    synchronizeStream(s);
    return true;
  }
  void synchronizeStream(const Stream& s) const override {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    ++synchronizations["stream"];
    host_sees(clocks[actor(s)]);
  }
  void synchronizeDevice(const DeviceIndex d) const override {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    ++synchronizations["device"];
    int device = d < 0 ? current_device : d;
    for (int i = 0; i < kStreamsPerDevice; ++i) host_sees(clocks[actor(device, i)]);
  }
  void recordDataPtrOnStream(const c10::DataPtr& p, const Stream& s) const override { allocator.recordStream(p, s); }
  double elapsedTime(void* a, void* b, const DeviceIndex) const override {
    return static_cast<Event*>(b)->time - static_cast<Event*>(a)->time;
  }
};
Guard* guard_impl = new Guard;

} // namespace
