// The kernels as XLA FFI handlers, for JAX on the CPU. Built against jaxlib's headers; nothing of jaxlib is linked.
//
// Python passes each handler to `jax.ffi.register_ffi_target` by its symbol. Every array carries the batch first, so
// that the targets may be registered as batch-partitionable.
#include <exception>
#include <string>

#include "../core/threads.hpp"
#include "arguments.hpp"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using keramorph::Options;
using keramorph::Sampling;
using keramorph::Type;
using keramorph::Terms;
using keramorph::Volume;

ffi::Error refuse(const char* expected) {
  return ffi::Error::InvalidArgument(std::string("Keramorph's kernel expects ") + expected + ".");
}

bool read_type(ffi::DataType dtype, Type* type) {
  switch (dtype) {
    case ffi::DataType::F16: *type = Type::float16; return true;
    case ffi::DataType::BF16: *type = Type::bfloat16; return true;
    case ffi::DataType::F32: *type = Type::float32; return true;
    case ffi::DataType::F64: *type = Type::float64; return true;
    case ffi::DataType::PRED: case ffi::DataType::S8: case ffi::DataType::U8: *type = Type::bytes1; return true;
    case ffi::DataType::S16: case ffi::DataType::U16: *type = Type::bytes2; return true;
    case ffi::DataType::S32: case ffi::DataType::U32: *type = Type::bytes4; return true;
    case ffi::DataType::S64: case ffi::DataType::U64: *type = Type::bytes8; return true;
    default: return false;
  }
}

keramorph::Sizes sizes_of(const ffi::AnyBuffer& buffer) {
  const auto dimensions = buffer.dimensions();
  return {dimensions.begin(), static_cast<int>(dimensions.size())};
}

// Results are fresh memory nearly always: XLA gives large buffers back to the system.
void* fresh(ffi::Result<ffi::AnyBuffer>& buffer) {
  keramorph::touch_lightly(buffer->untyped_data(), static_cast<std::int64_t>(buffer->size_bytes()));
  return buffer->untyped_data();
}

// No exception may leave a handler.
template <class Work>
ffi::Error guard(const Work& work) {
  try {
    work();
    return ffi::Error::Success();
  } catch (const std::exception& problem) {
    return ffi::Error::Internal(std::string("Keramorph's kernel failed: ") + problem.what());
  }
}

ffi::Error read_call(const ffi::AnyBuffer& image, const ffi::AnyBuffer& coordinates, const Options& options,
                     Sampling* call) {
  Type image_type, coordinate_type;
  if (!read_type(image.element_type(), &image_type) || !read_type(coordinates.element_type(), &coordinate_type))
    return refuse("real data types");
  const char* expected =
      describe_sampling(sizes_of(image), image_type, sizes_of(coordinates), coordinate_type, options, call);
  return expected == nullptr ? ffi::Error::Success() : refuse(expected);
}

ffi::Error read_volume(const ffi::AnyBuffer& array, Volume* volume) {
  Type type;
  if (!read_type(array.element_type(), &type)) return refuse("real data types");
  const char* expected = describe_volume(sizes_of(array), type, volume);
  return expected == nullptr ? ffi::Error::Success() : refuse(expected);
}

using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;
using Integers = ffi::Span<const std::int64_t>;

ffi::Error sample(Array image, Array coordinates, Result values, Options options, bool plus_coordinates) {
  Sampling call;
  if (auto problem = read_call(image, coordinates, options, &call); problem.failure()) return problem;
  return guard([&] {
    keramorph::sample(call, image.untyped_data(), coordinates.untyped_data(), fresh(values), plus_coordinates);
  });
}

ffi::Error sample_with_derivative(Array image, Array coordinates, Result values, Result derivative, Options options) {
  Sampling call;
  if (auto problem = read_call(image, coordinates, options, &call); problem.failure()) return problem;
  return guard([&] {
    keramorph::sample_with_derivative(call, image.untyped_data(), coordinates.untyped_data(), fresh(values),
                                      fresh(derivative));
  });
}

ffi::Error pull_back(Array image, Array coordinates, Array cotangent, Result gradient, Options options) {
  Sampling call;
  if (auto problem = read_call(image, coordinates, options, &call); problem.failure()) return problem;
  if (cotangent.element_type() != image.element_type()) return refuse("a cotangent in the image's data type");
  return guard([&] {
    keramorph::pull_back(call, image.untyped_data(), coordinates.untyped_data(), cotangent.untyped_data(),
                         fresh(gradient));
  });
}

ffi::Error splat(Array values, Array coordinates, Result image, Options options) {
  Sampling call;
  if (auto problem = read_call(*image, coordinates, options, &call); problem.failure()) return problem;
  return guard(
      [&] { keramorph::splat(call, values.untyped_data(), coordinates.untyped_data(), fresh(image)); });
}

ffi::Error prefilter(Array image, Result coefficients, std::int64_t boundary) {
  Volume volume;
  if (auto problem = read_volume(image, &volume); problem.failure()) return problem;
  const auto rule = static_cast<keramorph::Boundary>(boundary);
  return guard([&] { keramorph::prefilter(volume, rule, image.untyped_data(), fresh(coefficients)); });
}

ffi::Error prefilter_adjoint(Array coefficients, Result image, std::int64_t boundary) {
  Volume volume;
  if (auto problem = read_volume(*image, &volume); problem.failure()) return problem;
  const auto rule = static_cast<keramorph::Boundary>(boundary);
  return guard([&] { keramorph::prefilter_adjoint(volume, rule, coefficients.untyped_data(), fresh(image)); });
}

ffi::Error window_sum(Array array, Result sums, Integers size) {
  Volume volume;
  if (auto problem = read_volume(array, &volume); problem.failure()) return problem;
  return guard([&] { keramorph::window_sum(volume, size.begin(), array.untyped_data(), fresh(sums)); });
}

ffi::Error gaussian(Array array, Result smooth, ffi::Span<const double> sigma) {
  Volume volume;
  if (auto problem = read_volume(array, &volume); problem.failure()) return problem;
  return guard([&] { keramorph::gaussian(volume, sigma.begin(), array.untyped_data(), fresh(smooth)); });
}

ffi::Error compare_images(Array fixed, Array moved, Result values, Result* derivative, const Terms& terms) {
  Volume volume;
  if (auto problem = read_volume(moved, &volume); problem.failure()) return problem;
  keramorph::Comparison comparison;
  const char* expected = describe_comparison(terms, volume, &comparison);
  if (expected != nullptr) return refuse(expected);
  if (fixed.element_type() != moved.element_type() || fixed.element_count() != moved.element_count())
    return refuse("two images of one shape and data type");
  return guard([&] {
    keramorph::compare(volume, comparison, fixed.untyped_data(), moved.untyped_data(), values->untyped_data(),
                       derivative == nullptr ? nullptr : fresh(*derivative));
  });
}

ffi::Error compare(Array fixed, Array moved, Result values, Terms terms) {
  return compare_images(fixed, moved, values, nullptr, terms);
}

ffi::Error compare_with_derivative(Array fixed, Array moved, Result values, Result derivative, Terms terms) {
  return compare_images(fixed, moved, values, &derivative, terms);
}

}  // namespace

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(Options, ffi::StructMember<std::int64_t>("order"),
                                      ffi::StructMember<std::int64_t>("boundary"),
                                      ffi::StructMember<std::int64_t>("fill_bits"), ffi::StructMember<double>("fill"),
                                      ffi::StructMember<bool>("relative"), ffi::StructMember<bool>("smooth"));

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(Terms, ffi::StructMember<std::int64_t>("measure"),
                                      ffi::StructMember<std::int64_t>("extent"),
                                      ffi::StructMember<std::int64_t>("dilation"), ffi::StructMember<bool>("variant"));

#if defined(_WIN32)
#define KERAMORPH_EXPORT extern "C" __declspec(dllexport)
#else
#define KERAMORPH_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// XLA_FFI_DEFINE_HANDLER_SYMBOL does not export from a library that hides its symbols.
#define KERAMORPH_HANDLER(name, binding)                                    \
  KERAMORPH_EXPORT XLA_FFI_Error* keramorph_xla_##name(XLA_FFI_CallFrame* frame) { \
    static auto* handler = (binding).To(name).release();                    \
    return handler->Call(frame);                                            \
  }

KERAMORPH_HANDLER(sample,
                  ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Ret<Array>().Attr<Options>("options").Attr<bool>("plus"))
KERAMORPH_HANDLER(sample_with_derivative,
                  ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>().Attr<Options>("options"))
KERAMORPH_HANDLER(pull_back,
                  ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Attr<Options>("options"))
KERAMORPH_HANDLER(splat, ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Ret<Array>().Attr<Options>("options"))
KERAMORPH_HANDLER(prefilter, ffi::Ffi::Bind().Arg<Array>().Ret<Array>().Attr<std::int64_t>("boundary"))
KERAMORPH_HANDLER(prefilter_adjoint, ffi::Ffi::Bind().Arg<Array>().Ret<Array>().Attr<std::int64_t>("boundary"))
KERAMORPH_HANDLER(window_sum, ffi::Ffi::Bind().Arg<Array>().Ret<Array>().Attr<Integers>("size"))
KERAMORPH_HANDLER(compare, ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Ret<Array>().Attr<Terms>("terms"))
KERAMORPH_HANDLER(compare_with_derivative,
                  ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>().Attr<Terms>("terms"))
KERAMORPH_HANDLER(gaussian, ffi::Ffi::Bind().Arg<Array>().Ret<Array>().Attr<ffi::Span<const double>>("sigma"))
