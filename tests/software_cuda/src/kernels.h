#pragma once
// Operators that cannot go through the fallback: they allocate, copy between devices, make views, or have no CPU kernel of
// the same name.
#include "fallback.h"

namespace {

Device device_or_current(std::optional<Device> d) {
  return d && d->has_index() ? *d : Device(DeviceType::CUDA, static_cast<DeviceIndex>(current_device));
}

struct On { // the device of an allocation
  int before = current_device;
  explicit On(Device d) {
    TORCH_CHECK(d.index() < kDevices, "CUDA error: invalid device ordinal");
    current_device = d.index();
  }
  ~On() { current_device = before; }
};

Tensor empty(
    c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout, std::optional<Device> device,
    std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  On on(device_or_current(device));
  return at::detail::empty_generic(
      size, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), at::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device> device, std::optional<bool> pin) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  On on(device_or_current(device));
  return at::detail::empty_strided_generic(
      size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), at::dtype_or_default(dtype));
}

Tensor& copy_(Tensor& self, const Tensor& src, bool non_blocking) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  current_op = "aten::copy_";
  Aliases aliases;
  int device = (self.is_cuda() ? self : src).device().index();
  int who = launch(device);
  auto block = [](const Tensor& t) { return t.numel() && t.has_storage() ? find_block(t.storage().data()) : nullptr; };
  auto *to_block = block(self), *from_block = block(src);
  bool to_host = self.is_cpu(), from_host = src.is_cpu();
  if (from_block) touch(from_block, who, false);
  if (to_block) touch(to_block, who, true);
  if (from_host && from_block) settle(clocks[who]); // an earlier copy into this pinned memory that this stream comes after
  if (to_host && to_block) settle_reads(to_block, clocks[who]);
  at::AutoDispatchBelowADInplaceOrView below;
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  auto to = self.is_cuda() ? aliases.to_cpu(self) : self;
  auto from = src.is_cuda() ? aliases.to_cpu(src) : src;
  bool deferred = non_blocking && races && to_host && to_block && to_block->pinned;
  if (deferred) {
    pending.push_back({who, at_clock(clocks[who], who), to.detach(), from.to(to.scalar_type()).expand(to.sizes()).clone(), 0});
    poison(to);
  } else {
    to.copy_(from);
    if (non_blocking && races && from_host && from_block && from_block->pinned)
      pending.push_back({who, at_clock(clocks[who], who), from.detach(), Tensor(), hash_of(from)});
    if (to_host || (from_host && !(non_blocking && from_block && from_block->pinned))) {
      ++synchronizations[to_host ? "copy to the host" : "copy from pageable memory"];
      host_sees(clocks[who]);
    }
  }
  return self;
}

void record_stream(Tensor& self, Stream s) { allocator.recordStream(self.storage().data_ptr(), s); }

Tensor& set_storage(Tensor& self, Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  TORCH_CHECK(source.device().is_cuda() && self.is_cuda(), "Attempted to set the storage of a tensor on device \"", self.device(),
              "\" to a storage on different device \"", source.device(), "\".");
  return at::native::set_storage_cpu_(self, source, offset, size, stride);
}
Tensor& set_whole_storage(Tensor& self, Storage source) {
  auto n = static_cast<int64_t>(source.nbytes() / self.element_size());
  return set_storage(self, source, 0, n, {});
}
Tensor& set_empty(Tensor& self) {
  auto fresh = empty({0}, self.scalar_type(), std::nullopt, self.device(), std::nullopt, std::nullopt);
  return at::native::set_storage_cpu_(self, fresh.storage(), 0, {0}, {});
}
const Tensor& resize_(const Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  On on(self.device());
  return at::native::resize_(self, size, format);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention(
    const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bias, bool, double dropout, bool causal,
    std::optional<double> scale) {
  static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::_scaled_dot_product_flash_attention_for_cpu", "");
  torch::jit::Stack stack{q, k, v, dropout, causal, bias, scale};
  fallback(op, {}, &stack);
  auto seed = at::zeros({}, at::kLong);
  return {stack[0].toTensor(), stack[1].toTensor(), seed, seed.clone()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias, const Tensor& out, const Tensor& lse,
    const Tensor&, const Tensor&, double dropout, std::array<bool, 4>, bool causal, std::optional<double> scale) {
  static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "");
  torch::jit::Stack stack{grad, q, k, v, out, lse, dropout, causal, bias.defined() ? c10::IValue(bias) : c10::IValue(), scale};
  fallback(op, {}, &stack);
  return {stack[0].toTensor(), stack[1].toTensor(), stack[2].toTensor(), Tensor()};
}

int64_t choose_attention(
    const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask, double dropout, bool,
    std::optional<double>, bool gqa) {
  constexpr int64_t kMath = 0, kEfficient = 2;
  bool plain = q.dim() == 4 && k.dim() == 4 && q.size(3) == v.size(3) && dropout == 0.0 && !gqa && q.numel() && k.numel();
  bool mask_fits = !mask || !mask->defined() || (!mask->requires_grad() && (mask->dim() == 2 || mask->dim() == 4));
  return plain && mask_fits && at::globalContext().userEnabledMemEfficientSDP() ? kEfficient : kMath;
}
at::native::RegisterCUDADispatch<at::native::_fused_sdp_choice_stub_DECLARE_DISPATCH_type> choose{
    at::native::_fused_sdp_choice_stub, &choose_attention};

struct RegisterAllocators {
  RegisterAllocators() {
    c10::SetAllocator(DeviceType::CUDA, &allocator);
    at::setHostAllocator(at::kCUDA, &pinned_allocator);
  }
} register_allocators;
c10::impl::DeviceGuardImplRegistrar register_guard(DeviceType::CUDA, guard_impl);

} // namespace

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy_);
  m.impl("record_stream", record_stream);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", static_cast<Tensor (*)(const Tensor&, c10::IntArrayRef)>(at::native::view));
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("resize_", resize_);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("set_.source_Tensor", at::native::set_tensor_);
  m.impl("set_", set_empty);
  m.impl("_scaled_dot_product_efficient_attention", attention);
  m.impl("_scaled_dot_product_efficient_attention_backward", attention_backward);
  for (auto name : {"convolution", "convolution_backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
}
