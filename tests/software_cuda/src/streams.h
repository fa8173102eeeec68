#pragma once
// Streams as vector clocks. Every stream and the host is an actor with a clock; an event carries a stream's clock to
// whoever waits for it. Two accesses that no chain of events orders are a race, whatever order they happen to run in.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <torch/csrc/utils/device_lazy_init.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <bit>
#include <cstdlib>
#include <list>
#include <map>
#include <set>

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Storage;
using c10::StorageImpl;
using c10::Stream;

namespace {

long env(const char* name, long fallback) {
  const char* text = std::getenv(name);
  return text && *text ? std::atol(text) : fallback;
}

constexpr int kMaxDevices = 4;
const int kDevices = [] {
  long n = std::min<long>(env("SOFTWARE_CUDA_DEVICES", 1), kMaxDevices);
  if (auto* visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
    std::string text = visible;
    long seen = text.empty() ? 0 : 1 + std::count(text.begin(), text.end(), ',');
    n = std::min(n, seen);
  }
  return static_cast<int>(n);
}();
const bool kPoison = env("SOFTWARE_CUDA_POISON", 1);
long races = env("SOFTWARE_CUDA_RACES", 1); // 0: not looked for, 1: reported, 2: raised

std::recursive_mutex mutex; // guards everything below

using Clock = std::vector<uint64_t>;
constexpr int kStreamsPerDevice = 64;
constexpr int kActors = 1 + kMaxDevices * kStreamsPerDevice; // the host is actor 0

std::array<Clock, kActors> clocks;
std::array<int, kMaxDevices> streams_made{};
thread_local int current_device = 0;
thread_local std::array<int, kMaxDevices> current_stream{};

int actor(int device, int stream) { return 1 + device * kStreamsPerDevice + stream; }
int actor(const Stream& s) { return actor(s.device_index(), static_cast<int>(s.id())); }
int current_actor(int device) { return actor(device, current_stream[device]); }

void merge(Clock& into, const Clock& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}
uint64_t at_clock(const Clock& c, int a) { return a < static_cast<int>(c.size()) ? c[a] : 0; }
uint64_t tick(int a) {
  auto& c = clocks[a];
  if (static_cast<int>(c.size()) <= a) c.resize(a + 1);
  return ++c[a];
}
std::string actor_name(int a) {
  if (a == 0) return "the host";
  a -= 1;
  return "stream " + std::to_string(a % kStreamsPerDevice) + " of cuda:" + std::to_string(a / kStreamsPerDevice);
}

std::vector<std::string> race_reports;
thread_local std::string current_op = "?";

void report(const std::string& text) {
  if (!races) return;
  auto full = "software cuda race: " + text + " (in " + current_op + ")";
  if (std::find(race_reports.begin(), race_reports.end(), full) == race_reports.end()) {
    race_reports.push_back(full);
    fprintf(stderr, "%s\n", full.c_str());
  }
  if (races >= 2) TORCH_CHECK(false, full);
}

// How often the host waited for a device, by the operator that made it wait.
std::map<std::string, int64_t> synchronizations;

} // namespace
