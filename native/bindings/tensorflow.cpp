// The kernels as TensorFlow ops, by TensorFlow's C interface for ops and kernels.
//
// That interface keeps its binary form from one version to the next, so neither TensorFlow's headers nor its libraries
// are needed to build this: the few functions used are looked up in the running process. Where one is missing, no op is
// registered and Python computes without. `tf.load_op_library` runs the registration, which must
// therefore happen while this library is being loaded.
#include <cstring>
#include <exception>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "../core/threads.hpp"
#include "arguments.hpp"
#include "tensorflow_interface.hpp"
#include "tensorflow_shapes.hpp"

namespace {

using keramorph::Sampling;
using keramorph::Sizes;
using keramorph::Type;
using keramorph::Volume;

int size_of_type(int dtype) {
  switch (dtype) {
    case 4: case 6: case 10: return 1;         // uint8, int8, bool
    case 5: case 14: case 17: case 19: return 2;  // int16, bfloat16, uint16, half
    case 1: case 3: case 22: return 4;         // float, int32, uint32
    case 2: case 9: case 23: return 8;         // double, int64, uint64
    default: return 0;
  }
}

Type read_type(int dtype) {
  switch (dtype) {
    case 1: return Type::float32;
    case 2: return Type::float64;
    case 14: return Type::bfloat16;
    case 19: return Type::float16;
    default: return keramorph::bytes_of(size_of_type(dtype));
  }
}

// An input or output of a running kernel.
class OwnTensor {
 public:
  explicit OwnTensor(Tensor* tensor) : tensor_(tensor) {
    sizes_.resize(tf.NumDims(tensor));
    for (std::size_t k = 0; k < sizes_.size(); ++k) sizes_[k] = tf.Dim(tensor, static_cast<int>(k));
  }
  ~OwnTensor() { tf.DeleteTensor(tensor_); }
  OwnTensor(const OwnTensor&) = delete;
  OwnTensor& operator=(const OwnTensor&) = delete;

  Sizes sizes() const { return {sizes_.data(), static_cast<int>(sizes_.size())}; }
  const std::vector<int64_t>& shape() const { return sizes_; }
  int dtype() const { return tf.TensorType(tensor_); }
  Type type() const { return read_type(dtype()); }
  void* data() const { return tf.TensorData(tensor_); }

 private:
  Tensor* tensor_;
  std::vector<int64_t> sizes_;
};

struct Failure {
  int code;
  std::string message;
};

void require(const char* missing) {
  if (missing != nullptr) throw Failure{invalid_argument, std::string("Keramorph's kernel expects ") + missing + "."};
}

OwnTensor input(Context* context, int index) {
  OwnStatus status;
  Tensor* tensor = nullptr;
  tf.GetInput(context, index, &tensor, status);
  if (!status.good()) throw Failure{tf.GetCode(status), tf.Message(status)};
  return OwnTensor(tensor);
}

OwnTensor output(Context* context, int index, int dtype, const std::vector<int64_t>& shape) {
  OwnStatus status;
  std::size_t bytes = static_cast<std::size_t>(size_of_type(dtype));
  for (int64_t n : shape) bytes *= static_cast<std::size_t>(n);
  Tensor* tensor =
      tf.AllocateOutput(context, index, dtype, shape.data(), static_cast<int>(shape.size()), bytes, status);
  if (!status.good()) throw Failure{tf.GetCode(status), tf.Message(status)};
  // Outputs are fresh memory nearly always: large ones go back to the system when they die.
  keramorph::touch_lightly(tf.TensorData(tensor), static_cast<int64_t>(bytes));
  return OwnTensor(tensor);
}

// What a node of the graph was made with; which of them there are depends on the op.
struct Attributes {
  keramorph::Options options{};
  bool plus = false;
  keramorph::Boundary boundary = keramorph::Boundary::nearest;
  std::vector<int64_t> width;
  std::vector<int64_t> terms;  // of a comparison: measure, extent, dilation, variant
};

using Compute = void (*)(const Attributes&, Context*);

Sampling describe(const OwnTensor& coordinates, const Attributes& attributes, const std::vector<int64_t>& image,
                  Type type) {
  Sampling call;
  require(describe_sampling({image.data(), static_cast<int>(image.size())}, type, coordinates.sizes(),
                            coordinates.type(), attributes.options, &call));
  return call;
}

std::vector<int64_t> with_channels(const OwnTensor& coordinates, const OwnTensor& image) {
  std::vector<int64_t> shape = coordinates.shape();
  shape.back() = image.shape().back();
  return shape;
}

void sample(const Attributes& attributes, Context* context) {
  const OwnTensor image = input(context, 0), coordinates = input(context, 1);
  const Sampling call = describe(coordinates, attributes, image.shape(), image.type());
  const OwnTensor values = output(context, 0, image.dtype(), with_channels(coordinates, image));
  keramorph::sample(call, image.data(), coordinates.data(), values.data(), attributes.plus);
}

void sample_with_derivative(const Attributes& attributes, Context* context) {
  const OwnTensor image = input(context, 0), coordinates = input(context, 1);
  const Sampling call = describe(coordinates, attributes, image.shape(), image.type());
  std::vector<int64_t> shape = with_channels(coordinates, image);
  const OwnTensor values = output(context, 0, image.dtype(), shape);
  shape.push_back(call.ndim);
  const OwnTensor derivative = output(context, 1, coordinates.dtype(), shape);
  keramorph::sample_with_derivative(call, image.data(), coordinates.data(), values.data(), derivative.data());
}

void pull_back(const Attributes& attributes, Context* context) {
  const OwnTensor image = input(context, 0), coordinates = input(context, 1), cotangent = input(context, 2);
  const Sampling call = describe(coordinates, attributes, image.shape(), image.type());
  if (cotangent.shape() != with_channels(coordinates, image)) require("a cotangent of the shape of the values");
  const OwnTensor gradient = output(context, 0, coordinates.dtype(), coordinates.shape());
  keramorph::pull_back(call, image.data(), coordinates.data(), cotangent.data(), gradient.data());
}

void splat(const Attributes& attributes, Context* context) {
  const OwnTensor values = input(context, 0), coordinates = input(context, 1), sizes = input(context, 2);
  if (values.shape().empty() || coordinates.shape().empty() || with_channels(coordinates, values) != values.shape())
    require("values and coordinates of the same field");
  const auto* spatial = static_cast<const int64_t*>(sizes.data());
  std::vector<int64_t> shape = {values.shape().front()};
  shape.insert(shape.end(), spatial, spatial + sizes.sizes().product());
  shape.push_back(values.shape().back());
  const Sampling call = describe(coordinates, attributes, shape, values.type());
  const OwnTensor image = output(context, 0, values.dtype(), shape);
  keramorph::splat(call, values.data(), coordinates.data(), image.data());
}

Volume describe_array(const OwnTensor& array, const std::vector<int64_t>& shape) {
  Volume volume;
  require(describe_volume({shape.data(), static_cast<int>(shape.size())}, array.type(), &volume));
  return volume;
}

std::vector<int64_t> lengthen(std::vector<int64_t> shape, keramorph::Boundary boundary, int64_t edge) {
  for (std::size_t k = 1; k + 1 < shape.size(); ++k) shape[k] += boundary == keramorph::Boundary::nearest ? edge : 0;
  return shape;
}

void prefilter(const Attributes& attributes, Context* context) {
  const OwnTensor image = input(context, 0);
  const Volume volume = describe_array(image, image.shape());
  const OwnTensor found = output(context, 0, image.dtype(), lengthen(image.shape(), attributes.boundary, 32));
  keramorph::prefilter(volume, attributes.boundary, image.data(), found.data());
}

void prefilter_adjoint(const Attributes& attributes, Context* context) {
  const OwnTensor coefficients = input(context, 0);
  const std::vector<int64_t> shape = lengthen(coefficients.shape(), attributes.boundary, -32);
  const Volume volume = describe_array(coefficients, shape);
  const OwnTensor image = output(context, 0, coefficients.dtype(), shape);
  keramorph::prefilter_adjoint(volume, attributes.boundary, coefficients.data(), image.data());
}

const int64_t* width_of(const Attributes& attributes, const Volume& volume) {
  if (attributes.width.size() != static_cast<std::size_t>(volume.ndim)) require("one width per spatial axis");
  return attributes.width.data();
}

void window_sum(const Attributes& attributes, Context* context) {
  const OwnTensor array = input(context, 0);
  const Volume volume = describe_array(array, array.shape());
  const OwnTensor sums = output(context, 0, array.dtype(), array.shape());
  keramorph::window_sum(volume, width_of(attributes, volume), array.data(), sums.data());
}

void gaussian(const Attributes& attributes, Context* context) {
  const OwnTensor array = input(context, 0);
  const Volume volume = describe_array(array, array.shape());
  const OwnTensor smooth = output(context, 0, array.dtype(), array.shape());
  double sigma[keramorph::max_ndim];
  std::memcpy(sigma, width_of(attributes, volume), sizeof(double) * static_cast<std::size_t>(volume.ndim));
  keramorph::gaussian(volume, sigma, array.data(), smooth.data());
}

keramorph::Comparison describe_pair(const OwnTensor& fixed, const OwnTensor& moved, const Attributes& attributes,
                                    const Volume& volume) {
  keramorph::Comparison comparison;
  if (attributes.terms.size() != 4) require("four terms of a comparison");
  const int64_t* terms = attributes.terms.data();
  require(describe_comparison({terms[0], terms[1], terms[2], terms[3] != 0}, volume, &comparison));
  if (fixed.shape() != moved.shape()) require("two images of one shape");
  return comparison;
}

void compare(const Attributes& attributes, Context* context) {
  const OwnTensor fixed = input(context, 0), moved = input(context, 1);
  const Volume volume = describe_array(moved, moved.shape());
  const keramorph::Comparison comparison = describe_pair(fixed, moved, attributes, volume);
  const OwnTensor values = output(context, 0, moved.dtype(), {volume.batch});
  keramorph::compare(volume, comparison, fixed.data(), moved.data(), values.data(), nullptr);
}

void compare_with_derivative(const Attributes& attributes, Context* context) {
  const OwnTensor fixed = input(context, 0), moved = input(context, 1);
  const Volume volume = describe_array(moved, moved.shape());
  const keramorph::Comparison comparison = describe_pair(fixed, moved, attributes, volume);
  const OwnTensor values = output(context, 0, moved.dtype(), {volume.batch});
  const OwnTensor derivative = output(context, 1, moved.dtype(), moved.shape());
  keramorph::compare(volume, comparison, fixed.data(), moved.data(), values.data(), derivative.data());
}

// No exception may leave what TensorFlow calls.
template <Compute compute>
void run(void* attributes, Context* context) {
  Failure failure{0, {}};
  try {
    compute(*static_cast<const Attributes*>(attributes), context);
  } catch (const Failure& found) {
    failure = found;
  } catch (const std::exception& found) {
    failure = {internal, std::string("Keramorph's kernel failed: ") + found.what()};
  }
  if (failure.code == 0) return;
  OwnStatus status;
  tf.SetStatus(status, failure.code, failure.message.c_str());
  tf.OpKernelContext_Failure(context, status);
}

// Whether all of these whole numbers could be read; if not, TensorFlow knows.
bool read_numbers(Construction* construction, std::initializer_list<std::pair<const char*, int64_t*>> numbers) {
  OwnStatus status;
  for (const auto& [name, value] : numbers) {
    if (status.good()) tf.OpKernelConstruction_GetAttrInt64(construction, name, value, status);
  }
  if (!status.good()) tf.OpKernelConstruction_Failure(construction, status);
  return status.good();
}

void* create_sampler(Construction* construction) {
  int64_t order = 0, boundary = 0, fill = 0, bits = 0, relative = 0, smooth = 0, plus = 0;
  if (!read_numbers(construction, {{"order", &order}, {"boundary", &boundary}, {"fill", &fill}, {"fill_bits", &bits},
                                   {"relative", &relative}, {"smooth", &smooth}, {"plus", &plus}}))
    return nullptr;
  auto* attributes = new Attributes;
  attributes->options = {order, boundary, bits, std::bit_cast<double>(fill), relative != 0, smooth != 0};
  attributes->plus = plus != 0;
  return attributes;
}

void* create_prefilter(Construction* construction) {
  int64_t boundary = 0;
  if (!read_numbers(construction, {{"boundary", &boundary}})) return nullptr;
  auto* attributes = new Attributes;
  attributes->boundary = static_cast<keramorph::Boundary>(boundary);
  return attributes;
}

// A list of whole numbers; its length is checked when the op runs.
void* read_list(Construction* construction, const char* name, std::vector<int64_t> Attributes::* member) {
  OwnStatus status;
  std::int32_t count = 0, total = 0;
  tf.OpKernelConstruction_GetAttrSize(construction, name, &count, &total, status);
  std::vector<int64_t> numbers(static_cast<std::size_t>(count > 0 ? count : 0));
  if (status.good()) tf.OpKernelConstruction_GetAttrInt64List(construction, name, numbers.data(), count, status);
  if (!status.good()) {
    tf.OpKernelConstruction_Failure(construction, status);
    return nullptr;
  }
  auto* attributes = new Attributes;
  attributes->*member = std::move(numbers);
  return attributes;
}

void* create_filter(Construction* construction) { return read_list(construction, "width", &Attributes::width); }

void* create_comparison(Construction* construction) { return read_list(construction, "terms", &Attributes::terms); }

void destroy(void* attributes) { delete static_cast<Attributes*>(attributes); }

struct Op {
  const char* name;
  std::vector<const char*> inputs, outputs, attributes;
  void (*infer)(Inference*, Status*);
  void* (*create)(Construction*);
  void (*compute)(void*, Context*);
};

void register_op(const Op& op) {
  OpBuilder* builder = tf.NewOpDefinitionBuilder(op.name);
  for (const char* each : op.attributes) tf.OpDefinitionBuilderAddAttr(builder, each);
  for (const char* each : op.inputs) tf.OpDefinitionBuilderAddInput(builder, each);
  for (const char* each : op.outputs) tf.OpDefinitionBuilderAddOutput(builder, each);
  tf.OpDefinitionBuilderSetShapeInferenceFunction(builder, op.infer);
  OwnStatus status;
  tf.RegisterOpDefinition(builder, status);
  if (status.good()) {
    KernelBuilder* kernel = tf.NewKernelBuilder(op.name, "CPU", op.create, op.compute, destroy);
    tf.RegisterKernelBuilder(op.name, kernel, status);
  }
  if (!status.good()) problem = std::string(op.name) + ": " + tf.Message(status);
}

void register_ops() {
  // Whole numbers alone: TensorFlow's other numbers have 32 bits, so that floats travel as the bits of a double.
  const std::vector<const char*> sampler = {
      "T: {half, bfloat16, float, double, bool, int8, uint8, int16, uint16, int32, uint32, int64, uint64}",
      "C: {float, double}", "order: int", "boundary: int", "fill: int", "fill_bits: int", "relative: int",
      "smooth: int", "plus: int = 0"};
  const std::vector<const char*> prefilters = {"T: {float, double}", "boundary: int"};
  const std::vector<const char*> filters = {"T: {float, double}", "width: list(int)"};
  const std::vector<const char*> comparisons = {"T: {float, double}", "terms: list(int)"};
  const Op ops[] = {
      {"KeramorphSample", {"image: T", "coordinates: C"}, {"values: T"}, sampler, infer_values<false>,
       create_sampler, run<sample>},
      {"KeramorphSampleWithDerivative", {"image: T", "coordinates: C"}, {"values: T", "derivative: C"}, sampler,
       infer_values<true>, create_sampler, run<sample_with_derivative>},
      {"KeramorphPullBack", {"image: T", "coordinates: C", "cotangent: T"}, {"gradient: C"}, sampler, infer_same<1>,
       create_sampler, run<pull_back>},
      {"KeramorphSplat", {"values: T", "coordinates: C", "shape: int64"}, {"image: T"}, sampler, infer_nothing,
       create_sampler, run<splat>},
      {"KeramorphPrefilter", {"array: T"}, {"filtered: T"}, prefilters, infer_nothing, create_prefilter,
       run<prefilter>},
      {"KeramorphPrefilterAdjoint", {"array: T"}, {"filtered: T"}, prefilters, infer_nothing, create_prefilter,
       run<prefilter_adjoint>},
      {"KeramorphWindowSum", {"array: T"}, {"filtered: T"}, filters, infer_same<0>, create_filter, run<window_sum>},
      {"KeramorphGaussian", {"array: T"}, {"filtered: T"}, filters, infer_same<0>, create_filter, run<gaussian>},
      {"KeramorphCompare", {"fixed: T", "moved: T"}, {"values: T"}, comparisons, infer_comparison<false>,
       create_comparison, run<compare>},
      {"KeramorphCompareWithDerivative", {"fixed: T", "moved: T"}, {"values: T", "derivative: T"}, comparisons,
       infer_comparison<true>, create_comparison, run<compare_with_derivative>},
  };
  for (const Op& op : ops) register_op(op);
}

[[maybe_unused]] const bool registered = [] {
  if (find_functions()) register_ops();
  return problem.empty();
}();

}  // namespace

// Why the ops are missing, for a person to read; empty if they are there.
extern "C" __attribute__((visibility("default"))) const char* keramorph_tensorflow_problem() { return problem.c_str(); }
