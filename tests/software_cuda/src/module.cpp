// A software CUDA: the CUDA device of a CPU-only torch, with host memory behind it. See ../__init__.py.
#include "collectives.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("device_count", [] { return kDevices; });
  m.def("get_device", [] { return current_device; });
  m.def("set_device", [](int d) {
    TORCH_CHECK(d < kDevices, "CUDA error: invalid device ordinal");
    if (d >= 0) current_device = d;
  });
  m.def("exchange_device", [](int d) {
    int old = current_device;
    if (d >= 0) current_device = d;
    return old;
  });
  m.def("current_stream", [](int d) { return current_stream[d < 0 ? current_device : d]; });
  m.def("set_stream", [](int stream, int d) { current_stream[d] = stream; });
  m.def("synchronize", [](int d) { guard_impl->synchronizeDevice(static_cast<DeviceIndex>(d)); });
  m.def("default_generator", [](int d) { return default_generators().at(d); });
  m.def("usage", [](int d) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    auto& u = usage[d];
    return std::map<std::string, int64_t>{
        {"live", u.live}, {"peak", u.peak}, {"reserved", u.reserved}, {"reserved_peak", u.reserved_peak}, {"total", u.total},
        {"allocations", u.allocations}, {"frees", u.frees}, {"count", u.count}, {"ooms", u.ooms},
        {"allocated", u.total_allocated}, {"pinned", pinned_bytes}, {"pinned_peak", pinned_peak}};
  });
  m.def("set_total", [](int d, int64_t n) { usage[d].total = n; });
  m.def("reset_pinned_peak", [] { pinned_peak = pinned_bytes; });
  m.def("reset_peak", [](int d) { allocator.resetPeakStats(static_cast<DeviceIndex>(d)); });
  m.def("empty_cache", [] { allocator.emptyCache(); });
  m.def("resize_storage", [](const Tensor& of, size_t n) {
    On on(of.device());
    auto* impl = of.storage().unsafeGetStorageImpl();
    auto fresh = allocator.allocate(n);
    if (n && impl->nbytes()) memcpy(fresh.get(), impl->data(), std::min(n, impl->nbytes()));
    impl->set_data_ptr_noswap(std::move(fresh));
    impl->set_nbytes(n);
  });
  m.def("nccl_over", [](c10::intrusive_ptr<c10d::Backend> gloo) -> c10::intrusive_ptr<c10d::Backend> {
    return c10::make_intrusive<NcclOverGloo>(std::move(gloo));
  });
  m.def("forget_initialized", [] { torch::utils::set_requires_device_init(at::kCUDA, true); });
  m.def("races", [] { return race_reports; });
  m.def("set_races", [](long level) { races = level; });
  m.def("clear_races", [] { race_reports.clear(); });
  m.def("synchronizations", [] { return synchronizations; });
  m.def("clear_synchronizations", [] { synchronizations.clear(); });
  m.def("host_scalars", [] { return host_scalars; });
  m.def("op_counts", [] { return op_counts; });
}
