// What every kernel is told: data types, shapes and rules. No framework is known here.
//
// Arrays are contiguous, channels last: images (batch, *spatial, channels), coordinates (batch, *field, ndim).
// Whoever calls has checked the shapes; no value of a coordinate can make a kernel read or write outside an array.
#pragma once

#include <cstdint>

namespace keramorph {

constexpr int max_ndim = 3;

// Arrays of at most this many elements: indices, folded at twice a size, fit 32 bits. The bindings take the portable way
// beyond.
constexpr std::int64_t max_elements = (std::int64_t{1} << 30) - 64;

enum class Type : int { float16, bfloat16, float32, float64, bytes1, bytes2, bytes4, bytes8 };

// In the order in which `scipy.ndimage` documents them; the bindings pass the number.
enum class Boundary : int { constant, nearest, reflect, mirror, wrap };

inline std::int64_t size_of(Type type) {
  switch (type) {
    case Type::bytes1: return 1;
    case Type::float16: case Type::bfloat16: case Type::bytes2: return 2;
    case Type::float32: case Type::bytes4: return 4;
    default: return 8;
  }
}

// How an image is read: `Rule` of the Python side.
struct Rule {
  int order;           // 0, 1 or 3; of order 3 the image holds B-spline coefficients
  Boundary boundary;
  double fill;         // value outside, where the boundary is `constant`
  bool relative;       // coordinates are displacements from each voxel's own index
  bool smooth;         // derivatives are central differences of the image
  std::uint64_t fill_bits;  // the fill value in the image's own bits, where its type is one of the bytes types
};

// One call of a sampler.
struct Sampling {
  Rule rule;
  Type image_type;       // float16, bfloat16 and float32 go with float32 coordinates, float64 with float64;
  Type coordinate_type;  // the bytes types go with order 0 alone
  int ndim;
  std::int64_t batch, channels;
  std::int64_t image[max_ndim];  // spatial sizes; those behind ndim are 1
  std::int64_t field[max_ndim];  // of a relative field its sizes, of others {positions per batch entry, 1, 1}
};

// A batch of images for a filter.
struct Volume {
  Type type;  // float32 or float64
  int ndim;
  std::int64_t batch, channels;
  std::int64_t size[max_ndim];  // those behind ndim are 1
};

// What two images are compared by; the bindings pass the number.
enum class Measure : int { squared_difference, correlation, local_correlation, mutual_information, self_similarity };

// How they are compared: `Comparison` of the Python side.
struct Comparison {
  Measure measure;
  std::int64_t extent;    // local correlation: edge of the window in voxels; mutual information: number of bins;
                          // self-similarity: radius of the patches in voxels
  std::int64_t dilation;  // self-similarity: how many voxels away the neighbours are
  bool variant;           // local correlation: squared; mutual information: normalised
};

// What blocks of voxels of a fixed image add up to; see `add_blocks`.
struct Blocks {
  const std::int64_t *blocks, *shape;          // blocks along each axis; sizes of the moving image
  const double *matrix, *bend, *to_push;       // (ndim, ndim + 1) and (ndim, ndim), in rows
  const void *fixed, *fixed_mask;              // a mask may be null
  const void *moving, *moving_mask, *displacement;
  void *moments, *weights, *pushes;
};

}  // namespace keramorph
