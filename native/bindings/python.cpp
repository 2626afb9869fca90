// The kernels for Python: NumPy arrays through the buffer protocol, tensors of PyTorch by their address.
//
// A plan (Sampling, Volume) is made once per shape and rule and checks all it can; a call then only hands over memory.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "memory.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace {

using keramorph::Boundary;
using keramorph::Memory;
using keramorph::Sampling;
using keramorph::Type;
using keramorph::Volume;
using keramorph::size_of;
using Shape = std::vector<std::int64_t>;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("keramorph._native: " + what); }

bool is_float(Type type) { return static_cast<int>(type) <= static_cast<int>(Type::float64); }

Type read_type(int code) {
  if (code < 0 || code > static_cast<int>(Type::bytes8)) refuse("no such type");
  return static_cast<Type>(code);
}

Boundary read_boundary(int code) {
  if (code < 0 || code > static_cast<int>(Boundary::wrap)) refuse("no such boundary");
  return static_cast<Boundary>(code);
}

// Memory of an argument: a contiguous buffer that is large enough, or the address of a tensor, which is believed.
class Data {
 public:
  Data(nb::handle source, std::int64_t count, Type type, bool writable) {
    if (PyLong_Check(source.ptr())) {
      address_ = PyLong_AsVoidPtr(source.ptr());
      if (address_ == nullptr) throw nb::python_error();
    } else {
      if (PyObject_GetBuffer(source.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0) {
        throw nb::python_error();
      }
      held_ = true;
      address_ = view_.buf;
      if (view_.len < count * size_of(type)) fail("an array is smaller than its plan says");
    }
    if (reinterpret_cast<std::uintptr_t>(address_) % static_cast<std::uintptr_t>(size_of(type)) != 0) {
      fail("an array is not aligned to its elements");
    }
  }
  ~Data() { release(); }
  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;

  void* get() const { return address_; }

 private:
  void release() {
    if (held_) PyBuffer_Release(&view_);
    held_ = false;
  }
  void fail(const char* what) {
    release();
    refuse(what);
  }

  Py_buffer view_{};
  void* address_ = nullptr;
  bool held_ = false;
};

keramorph::Sizes sizes_of(const Shape& shape) { return {shape.data(), static_cast<int>(shape.size())}; }

void require(const char* expected) {
  if (expected != nullptr) refuse(std::string(expected) + " expected");
}

std::int64_t count_elements(const Shape& shape) {
  const std::int64_t count = sizes_of(shape).product();
  if (count == 0) require(keramorph::countable);
  return count;
}

struct SamplingPlan {
  Sampling call{};
  std::int64_t image, coordinates, values;  // elements

  SamplingPlan(const keramorph::Options& options, Type image_type, Type coordinate_type, const Shape& image_shape,
               const Shape& coordinate_shape)
      : image(count_elements(image_shape)), coordinates(count_elements(coordinate_shape)) {
    require(describe_sampling(sizes_of(image_shape), image_type, sizes_of(coordinate_shape), coordinate_type, options,
                              &call));
    values = coordinates / call.ndim * call.channels;
  }

  Data read_image(nb::handle array, bool writable = false) const { return {array, image, call.image_type, writable}; }
  Data read_coordinates(nb::handle array) const { return {array, coordinates, call.coordinate_type, false}; }
  Data read_values(nb::handle array, bool writable) const { return {array, values, call.image_type, writable}; }
  Data write_like_coordinates(nb::handle array, std::int64_t count) const {
    return {array, count, call.coordinate_type, true};
  }
  void need_floats() const {
    if (!is_float(call.image_type)) refuse("this kernel needs images of floats");
  }
  void need_slopes() const {
    need_floats();
    if (call.rule.order == 0) refuse("a nearest voxel has no derivative");
  }

};

struct VolumePlan {
  Volume volume{};
  std::int64_t count;

  VolumePlan(int type, const Shape& shape) : count(count_elements(shape)) {
    require(describe_volume(sizes_of(shape), read_type(type), &volume));
  }

  // Elements of the coefficients, which are longer at both ends where the edge is extended.
  std::int64_t count_coefficients(Boundary boundary) const {
    const std::int64_t edge = boundary == Boundary::nearest ? 32 : 0;
    Shape shape{volume.batch, volume.channels};
    for (int axis = 0; axis < volume.ndim; ++axis) shape.push_back(volume.size[axis] + edge);
    return count_elements(shape);
  }

  Data read(nb::handle array) const { return {array, count, volume.type, false}; }
  Data write(nb::handle array) const { return {array, count, volume.type, true}; }
};

template <class T, class Sequence>
std::array<T, keramorph::max_ndim> per_axis(const VolumePlan& plan, const Sequence& given, T filler) {
  if (given.size() != static_cast<std::size_t>(plan.volume.ndim)) refuse("one number per spatial axis is expected");
  std::array<T, keramorph::max_ndim> result;
  result.fill(filler);
  for (std::size_t k = 0; k < given.size(); ++k) result[k] = given[k];
  return result;
}

void sample(const SamplingPlan& plan, nb::handle image, nb::handle coordinates, nb::handle values, bool plus) {
  const Sampling& call = plan.call;
  const bool alike = call.channels == call.ndim && call.image_type == call.coordinate_type;
  if (plus && (call.rule.order == 0 || !alike)) {
    refuse("only displacements can be added to displacements");
  }
  const Data from = plan.read_image(image), at = plan.read_coordinates(coordinates), to = plan.read_values(values, true);
  nb::gil_scoped_release release;
  keramorph::sample(plan.call, from.get(), at.get(), to.get(), plus);
}

void sample_with_derivative(const SamplingPlan& plan, nb::handle image, nb::handle coordinates, nb::handle values,
                            nb::handle derivative) {
  plan.need_slopes();
  const std::int64_t slopes = count_elements({plan.values, plan.call.ndim});
  const Data from = plan.read_image(image), at = plan.read_coordinates(coordinates), to = plan.read_values(values, true),
             along = plan.write_like_coordinates(derivative, slopes);
  nb::gil_scoped_release release;
  keramorph::sample_with_derivative(plan.call, from.get(), at.get(), to.get(), along.get());
}

void pull_back(const SamplingPlan& plan, nb::handle image, nb::handle coordinates, nb::handle cotangent,
               nb::handle gradient) {
  plan.need_slopes();
  const Data from = plan.read_image(image), at = plan.read_coordinates(coordinates),
             weights = plan.read_values(cotangent, false), to = plan.write_like_coordinates(gradient, plan.coordinates);
  nb::gil_scoped_release release;
  keramorph::pull_back(plan.call, from.get(), at.get(), weights.get(), to.get());
}

void splat(const SamplingPlan& plan, nb::handle values, nb::handle coordinates, nb::handle image) {
  plan.need_floats();
  const Data from = plan.read_values(values, false), at = plan.read_coordinates(coordinates),
             to = plan.read_image(image, true);
  nb::gil_scoped_release release;
  keramorph::splat(plan.call, from.get(), at.get(), to.get());
}

void prefilter(const VolumePlan& plan, int code, bool adjoint, nb::handle input, nb::handle output) {
  const Boundary boundary = read_boundary(code);
  const std::int64_t coefficients = plan.count_coefficients(boundary);
  const Data from(input, adjoint ? coefficients : plan.count, plan.volume.type, false),
      to(output, adjoint ? plan.count : coefficients, plan.volume.type, true);
  nb::gil_scoped_release release;
  (adjoint ? keramorph::prefilter_adjoint : keramorph::prefilter)(plan.volume, boundary, from.get(), to.get());
}

std::array<std::int64_t, keramorph::max_ndim> read_window(const VolumePlan& plan, const Shape& size) {
  const auto sizes = per_axis<std::int64_t>(plan, size, 1);
  for (const std::int64_t one : sizes) {
    if (one < 1 || one % 2 == 0 || one > keramorph::max_elements) refuse("window sizes must be odd, and not huge");
  }
  return sizes;
}

void window_sum(const VolumePlan& plan, const Shape& size, nb::handle input, nb::handle output) {
  const auto sizes = read_window(plan, size);
  const Data from = plan.read(input), to = plan.write(output);
  nb::gil_scoped_release release;
  keramorph::window_sum(plan.volume, sizes.data(), from.get(), to.get());
}

void gaussian(const VolumePlan& plan, const std::vector<double>& sigma, nb::handle input, nb::handle output) {
  const auto widths = per_axis<double>(plan, sigma, 0.0);
  for (const double one : widths) {
    if (!(one >= 0 && one <= std::numeric_limits<std::int32_t>::max() / 8)) refuse("`sigma` must not be negative or huge");
  }
  const Data from = plan.read(input), to = plan.write(output);
  nb::gil_scoped_release release;
  keramorph::gaussian(plan.volume, widths.data(), from.get(), to.get());
}

// An array that may be left out.
std::optional<Data> read_optional(nb::handle array, std::int64_t count, Type type, bool writable) {
  if (array.is_none()) return std::nullopt;
  return std::optional<Data>(std::in_place, array, count, type, writable);
}

void* address_of(const std::optional<Data>& data) { return data ? data->get() : nullptr; }

// The correlation of the solver; `compare` has the others.
void lncc(const VolumePlan& plan, const Shape& size, double floor, double least, nb::handle fixed, nb::handle moved,
          nb::handle weight, nb::handle similarity, nb::handle derivative, nb::handle curvature) {
  constexpr int noisy_square = 2;
  const auto sizes = read_window(plan, size);
  if (derivative.is_none() && !curvature.is_none()) refuse("a curvature comes with a derivative only");
  const Type type = plan.volume.type;
  const Data first = plan.read(fixed), second = plan.read(moved),
             result(similarity, plan.volume.batch, Type::float64, true);
  const auto weights = read_optional(weight, plan.count, type, false),
             slope = read_optional(derivative, plan.count, type, true),
             bend = read_optional(curvature, plan.count, type, true);
  nb::gil_scoped_release release;
  keramorph::lncc(plan.volume, sizes.data(), noisy_square, floor, least, first.get(), second.get(),
                  address_of(weights), static_cast<double*>(result.get()), address_of(slope), address_of(bend));
}

void compare(const VolumePlan& plan, std::int64_t measure, std::int64_t extent, std::int64_t dilation, bool variant,
             nb::handle fixed, nb::handle moved, nb::handle values, nb::handle derivative) {
  keramorph::Comparison comparison;
  require(describe_comparison({measure, extent, dilation, variant}, plan.volume, &comparison));
  const Data first = plan.read(fixed), second = plan.read(moved),
             result(values, plan.volume.batch, plan.volume.type, true);
  const auto slope = read_optional(derivative, plan.count, plan.volume.type, true);
  nb::gil_scoped_release release;
  keramorph::compare(plan.volume, comparison, first.get(), second.get(), result.get(), address_of(slope));
}

// The solver's steps: the plan is that of a displacement.
std::int64_t count_vectors(const VolumePlan& plan) {
  if (plan.volume.channels != plan.volume.ndim) refuse("one component per spatial axis is expected");
  return plan.count / plan.volume.ndim;
}

void need_entries(const VolumePlan& plan, const std::vector<double>& matrix, std::int64_t columns) {
  const std::int64_t entries = plan.volume.ndim * columns;
  if (matrix.size() != static_cast<std::size_t>(entries)) refuse("a matrix of one row per spatial axis is expected");
}

void locate(const VolumePlan& plan, const std::vector<double>& matrix, const Shape& shape, nb::handle displacement,
            nb::handle positions, nb::handle inside) {
  const std::int64_t vectors = count_vectors(plan);
  need_entries(plan, matrix, plan.volume.ndim + 1);
  const auto sizes = per_axis<std::int64_t>(plan, shape, 1);
  const Data from = plan.read(displacement), to = plan.write(positions),
             weight(inside, vectors, plan.volume.type, true);
  nb::gil_scoped_release release;
  keramorph::locate(plan.volume, matrix.data(), sizes.data(), from.get(), to.get(), weight.get());
}

void push(const VolumePlan& plan, const std::vector<double>& matrix, nb::handle slope, nb::handle derivative,
          nb::handle curvature, nb::handle pushed) {
  const std::int64_t vectors = count_vectors(plan);
  need_entries(plan, matrix, plan.volume.ndim);
  const Type type = plan.volume.type;
  const Data along = plan.read(slope), first(derivative, vectors, type, false), second(curvature, vectors, type, false),
             to(pushed, plan.count + vectors, type, true);
  nb::gil_scoped_release release;
  keramorph::push(plan.volume, matrix.data(), along.get(), first.get(), second.get(), to.get());
}

// Matrices, shifts and shapes of `add_blocks`, from the Python side.
struct BlockPlan {
  VolumePlan plan;
  Shape blocks, shape;
  std::vector<double> matrix, bend, to_push;
  std::int64_t vectors = 1, moving = 1;

  BlockPlan(const VolumePlan& plan_, Shape blocks_, Shape shape_, std::vector<double> matrix_, std::vector<double> bend_,
            std::vector<double> to_push_)
      : plan(plan_), blocks(std::move(blocks_)), shape(std::move(shape_)), matrix(std::move(matrix_)),
        bend(std::move(bend_)), to_push(std::move(to_push_)) {
    const int ndim = plan.volume.ndim;
    if (plan.volume.channels != 1) refuse("a fixed image of one channel is expected");
    const auto counts = per_axis<std::int64_t>(plan, blocks, 1), sizes = per_axis<std::int64_t>(plan, shape, 1);
    need_entries(plan, matrix, ndim + 1);
    need_entries(plan, bend, ndim);
    need_entries(plan, to_push, ndim);
    for (int d = 0; d < ndim; ++d) {
      if (counts[d] < 1 || counts[d] > plan.volume.size[d]) refuse("from one block to one per voxel are expected");
      if (sizes[d] < 1) refuse("a moving image of at least one voxel is expected");
      vectors *= counts[d];
    }
    Shape whole{plan.volume.batch};
    whole.insert(whole.end(), shape.begin(), shape.end());
    moving = count_elements(whole);
  }
};

void add_blocks(const BlockPlan& plan, nb::handle fixed, nb::handle fixed_mask,
                nb::handle moving, nb::handle moving_mask, nb::handle displacement, nb::handle moments,
                nb::handle weights, nb::handle pushes) {
  const Volume& volume = plan.plan.volume;
  const std::int64_t ndim = volume.ndim, count = volume.batch * plan.vectors;
  const Data still = plan.plan.read(fixed), moved(moving, plan.moving, volume.type, false),
             field(displacement, count * ndim, volume.type, false), first(moments, count * 3, volume.type, true),
             second(weights, count, volume.type, true), third(pushes, count * (3 * ndim + 1), volume.type, true);
  const auto still_mask = read_optional(fixed_mask, plan.plan.count, volume.type, false),
             moved_mask = read_optional(moving_mask, plan.moving, volume.type, false);
  const keramorph::Blocks call{plan.blocks.data(), plan.shape.data(), plan.matrix.data(), plan.bend.data(),
                               plan.to_push.data(), still.get(),
                               address_of(still_mask), moved.get(), address_of(moved_mask), field.get(),
                               first.get(), second.get(), third.get()};
  nb::gil_scoped_release release;
  keramorph::add_blocks(volume, call);
}

void limit(const VolumePlan& plan, const std::vector<double>& matrix, double damping, double most, nb::handle pushed,
           nb::handle update) {
  const std::int64_t vectors = count_vectors(plan);
  need_entries(plan, matrix, plan.volume.ndim);
  const Data from(pushed, plan.count + vectors, plan.volume.type, false), to = plan.write(update);
  nb::gil_scoped_release release;
  keramorph::limit(plan.volume, matrix.data(), damping, most, from.get(), to.get());
}

int fill_buffer(PyObject* self, Py_buffer* view, int flags) {
  const Memory* memory = nb::inst_ptr<Memory>(self);
  return PyBuffer_FillInfo(view, self, memory->data(), static_cast<Py_ssize_t>(memory->bytes()), 0, flags);
}

PyType_Slot memory_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(fill_buffer)}, {0, nullptr}};

}  // namespace

NB_MODULE(_native, module) {
  module.attr("stamp") = KERAMORPH_STAMP;
  module.def("instructions", [] { return keramorph::name_of(keramorph::instructions()); });
  module.def("set_threads", &keramorph::set_threads);
  module.def("threads", &keramorph::threads);
  module.def("waiting_bytes", &keramorph::waiting_bytes);
  module.def("release_memory", &keramorph::release_memory);

  nb::class_<Memory>(module, "Memory", nb::type_slots(memory_slots))
      .def("__init__", [](Memory* self, std::int64_t bytes) {
        if (bytes < 1) refuse("at least one byte is expected");
        new (self) Memory(bytes);
      });

  nb::class_<SamplingPlan>(module, "Sampling")
      .def("__init__", [](SamplingPlan* self, int order, int boundary, double fill, std::uint64_t fill_bits,
                          bool relative, bool smooth, int image_type, int coordinate_type, const Shape& image,
                          const Shape& coordinates) {
        const auto bits = std::bit_cast<std::int64_t>(fill_bits);
        new (self) SamplingPlan({order, boundary, bits, fill, relative, smooth}, read_type(image_type),
                                read_type(coordinate_type), image, coordinates);
      });
  nb::class_<VolumePlan>(module, "Volume").def(nb::init<int, const Shape&>());

  module.def("sample", &sample);
  module.def("sample_with_derivative", &sample_with_derivative);
  module.def("pull_back", &pull_back);
  module.def("splat", &splat);
  module.def("prefilter", &prefilter);
  module.def("window_sum", &window_sum);
  module.def("gaussian", &gaussian);
  module.def("lncc", &lncc, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(),
             nb::arg(), nb::arg().none(), nb::arg().none());
  module.def("compare", &compare, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
             nb::arg(), nb::arg().none());
  module.def("locate", &locate);
  module.def("push", &push);
  module.def("limit", &limit);
  nb::class_<BlockPlan>(module, "BlockPlan")
      .def(nb::init<const VolumePlan&, Shape, Shape, std::vector<double>, std::vector<double>, std::vector<double>>());
  module.def("add_blocks", &add_blocks, nb::arg(), nb::arg(), nb::arg().none(), nb::arg(),
             nb::arg().none(), nb::arg(), nb::arg(), nb::arg(), nb::arg());
}
