// From shapes and options, as frameworks hand them over, to what the kernels are told.
//
// Each function returns nullptr, or what was expected: the Python side asks for a kernel only where one fits, so that a
// message from here means a shape that was open until run time, or a fault.
#pragma once

#include <bit>
#include <cstdint>

#include "../core/kernels.hpp"

namespace keramorph {

struct Sizes {
  const std::int64_t* at;
  int count;

  // Number of elements; 0 where there are none, or more than a kernel can count.
  std::int64_t product() const {
    std::int64_t result = 1;
    for (int k = 0; k < count; ++k) {
      if (at[k] < 1 || at[k] > max_elements / result) return 0;
      result *= at[k];
    }
    return result;
  }
};

constexpr const char* countable =
    "arrays of at least one voxel and at most 2**30 - 64 elements; set KERAMORPH_KERNELS=off for larger ones";

// Options of a sampler as plain numbers, under the names that the Python side passes.
struct Options {
  std::int64_t order, boundary, fill_bits;
  double fill;
  bool relative, smooth;
};

inline Type bytes_of(std::int64_t size) {
  switch (size) {
    case 1: return Type::bytes1;
    case 2: return Type::bytes2;
    case 4: return Type::bytes4;
    default: return Type::bytes8;
  }
}

inline bool goes_with(Type image, Type coordinates, std::int64_t order) {
  if (coordinates == Type::float64) return image == Type::float64;
  return image == Type::float32 || (order != 3 && (image == Type::float16 || image == Type::bfloat16));
}

// `image` are the sizes of the image that is read (or splatted onto), channels included.
inline const char* describe_sampling(Sizes image, Type image_type, Sizes coordinates, Type coordinate_type,
                                     const Options& options, Sampling* call) {
  const int ndim = image.count - 2;
  if (options.order != 0 && options.order != 1 && options.order != 3) return "an order of 0, 1 or 3";
  if (options.boundary < 0 || options.boundary > static_cast<std::int64_t>(Boundary::wrap)) return "a known boundary";
  if (ndim < 1 || ndim > max_ndim) return "an image (batch, *spatial, channels) of one to three spatial axes";
  if (coordinates.count < 2 || coordinates.at[coordinates.count - 1] != ndim)
    return "coordinates (batch, *field, ndim) with one component per spatial axis of the image";
  if (options.relative && coordinates.count != image.count)
    return "a displacement with as many spatial axes as the image";
  if (coordinates.at[0] != image.at[0]) return "image and coordinates of the same batch size";
  if (coordinate_type != Type::float32 && coordinate_type != Type::float64)
    return "coordinates in float32 or float64";
  if (!goes_with(image_type, coordinate_type, options.order)) {
    if (options.order != 0) return "an image in a data type that goes with that of the coordinates";
    image_type = bytes_of(size_of(image_type));
  }
  const std::int64_t elements = coordinates.product();
  if (image.product() == 0 || elements == 0) return countable;
  const std::int64_t positions = elements / ndim / image.at[0];
  if (elements / ndim > max_elements / image.at[ndim + 1]) return countable;
  *call = {{static_cast<int>(options.order), static_cast<Boundary>(options.boundary), options.fill, options.relative,
            options.smooth, std::bit_cast<std::uint64_t>(options.fill_bits)},
           image_type, coordinate_type, ndim, image.at[0], image.at[ndim + 1], {1, 1, 1}, {positions, 1, 1}};
  for (int k = 0; k < ndim; ++k) {
    call->image[k] = image.at[k + 1];
    if (options.relative) call->field[k] = coordinates.at[k + 1];
  }
  return nullptr;
}

inline const char* describe_volume(Sizes array, Type type, Volume* volume) {
  const int ndim = array.count - 2;
  if (ndim < 1 || ndim > max_ndim) return "an array (batch, *spatial, channels) of one to three spatial axes";
  if (type != Type::float32 && type != Type::float64) return "an array in float32 or float64";
  if (array.product() == 0) return countable;
  *volume = {type, ndim, array.at[0], array.at[ndim + 1], {1, 1, 1}};
  for (int k = 0; k < ndim; ++k) volume->size[k] = array.at[k + 1];
  return nullptr;
}

// How two images are compared, as plain numbers under the names that the Python side passes.
struct Terms {
  std::int64_t measure, extent, dilation;
  bool variant;
};

inline const char* describe_comparison(const Terms& terms, const Volume& volume, Comparison* comparison) {
  if (terms.measure < 0 || terms.measure > static_cast<std::int64_t>(Measure::self_similarity))
    return "a known measure";
  // Histograms with more bins are larger than most images, and wider windows hold more than those.
  constexpr std::int64_t most = 256;
  *comparison = {static_cast<Measure>(terms.measure), terms.extent, terms.dilation, terms.variant};
  if (terms.extent < 0 || terms.extent > most || terms.dilation < 0 || terms.dilation > most)
    return "windows, bins and distances of 0 to 256";
  if (comparison->measure == Measure::local_correlation && terms.extent % 2 == 0) return "a window of odd size";
  if (comparison->measure == Measure::mutual_information && terms.extent < 4) return "at least 4 bins";
  if (comparison->measure == Measure::self_similarity && (terms.dilation < 1 || volume.ndim < 2))
    return "two or more spatial axes, and neighbours at least one voxel away";
  return nullptr;
}

}  // namespace keramorph
