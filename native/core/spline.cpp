// The prefilter of cubic B-spline interpolation and its adjoint.
//
// The coefficients are the image filtered by sqrt(3) z^|k| with the pole z = sqrt(3) - 2 (Unser 1999,
// 10.1109/79.799930). Cut off below the rounding of the data type that is a short filter, and one pass of the separable
// convolution reads the image once.
#include <cmath>

#include "convolve.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {
namespace filters {
namespace {

// Voxels by which an edge-extended image is lengthened at each end: EDGE of the Python side.
constexpr std::int64_t edge_extension = 16;

// |z|^15 and |z|^29, times what follows them, are below the rounding of float32 and float64.
template <class T>
constexpr std::int64_t reach = sizeof(T) == 4 ? 14 : 28;

template <class T>
void fill_taps(T* taps) {
  const double pole = std::sqrt(3.0) - 2.0;
  for (std::int64_t k = -reach<T>; k <= reach<T>; ++k) {
    taps[k + reach<T>] = static_cast<T>(std::sqrt(3.0) * std::pow(pole, static_cast<double>(k < 0 ? -k : k)));
  }
}

template <class T>
void to_coefficients(const Volume& volume, Boundary boundary, const T* image, T* coefficients) {
  const std::int64_t edge = boundary == Boundary::nearest ? edge_extension : 0;
  Filter axes[3];
  Buffer taps((2 * reach<T> + 1) * static_cast<std::int64_t>(sizeof(T))), from[3];
  std::int64_t count[3];
  spread_axes(volume, count);
  fill_taps(taps.as<T>());
  const T one = 1;
  for (int d = 0; d < 3; ++d) {
    const bool real = d >= 3 - volume.ndim;
    const std::int64_t around = real ? edge + reach<T> : 0;
    from[d].grow((count[d] + 2 * around) * static_cast<std::int64_t>(sizeof(std::int32_t)));
    fold_line(count[d], around, boundary, from[d].as<std::int32_t>());
    axes[d] = {count[d], real ? edge : 0, real ? reach<T> : 0, real ? taps.as<T>() : &one,
               from[d].as<std::int32_t>()};
  }
  Convolution<T>(axes, volume.channels, volume.batch).run(volume.batch, image, coefficients);
}

// The filter along one axis, transposed: voxel i of the image gets sum of weights[i][k] * coefficients[first[i] + k].
// Coefficients are filtered as if zero lay outside, and what comes out beyond the image is folded back into it.
template <class T>
class Transposed {
 public:
  Transposed(std::int64_t count, Boundary boundary)
      : count_(count), edge_(boundary == Boundary::nearest ? edge_extension : 0), width_(2 * (reach<T> + edge_) + 1) {
    const std::int64_t around = edge_ + reach<T>, grown = count + 2 * edge_;
    Buffer taps((2 * reach<T> + 1) * static_cast<std::int64_t>(sizeof(T)));
    Buffer from((count + 2 * around) * static_cast<std::int64_t>(sizeof(std::int32_t)));
    fill_taps(taps.as<T>());
    fold_line(count, around, boundary, from.as<std::int32_t>());
    weights_.grow(count * width_ * static_cast<std::int64_t>(sizeof(T)));
    span_.grow(2 * count * static_cast<std::int64_t>(sizeof(std::int64_t)));
    for (std::int64_t i = 0; i < count * width_; ++i) weights_.as<T>()[i] = T(0);
    for (std::int64_t i = 0; i < count; ++i) first(i) = grown, last(i) = -1;
    for (int fill = 0; fill < 2; ++fill) {
      for (std::int64_t e = 0; e < count + 2 * around; ++e) {
        const std::int64_t i = from.as<std::int32_t>()[e];
        for (std::int64_t k = 0; k <= 2 * reach<T>; ++k) {
          const std::int64_t o = e - 2 * reach<T> + k;
          if (o < 0 || o >= grown) continue;
          if (fill == 0) {
            first(i) = least(first(i), o), last(i) = most(last(i), o);
          } else {
            weights_.as<T>()[i * width_ + o - first(i)] += taps.as<T>()[k];
          }
        }
      }
    }
    // Far from both ends all voxels have the same weights.
    plain_from_ = least(around + reach<T>, count);
    plain_to_ = most(plain_from_, count - around - reach<T>);
  }

  // (outer, grown, inner) to (outer, count, inner).
  void apply(std::int64_t outer, std::int64_t inner, const T* coefficients, T* image) const {
    const std::int64_t grown = count_ + 2 * edge_, grain = most(1, 4096 / (count_ * inner));
    parallel(outer, grain, [&](std::int64_t start, std::int64_t end) {
      Buffer pointers(width_ * static_cast<std::int64_t>(sizeof(T*)));
      for (std::int64_t n = start; n < end; ++n) {
        line(inner, coefficients + n * grown * inner, image + n * count_ * inner, pointers.as<const T*>());
      }
    });
  }

 private:
  std::int64_t& first(std::int64_t i) const { return span_.as<std::int64_t>()[2 * i]; }
  std::int64_t& last(std::int64_t i) const { return span_.as<std::int64_t>()[2 * i + 1]; }

  void line(std::int64_t inner, const T* coefficients, T* image, const T** rows) const {
    std::int64_t i = 0;
    while (i < count_) {
      const std::int64_t run = i == plain_from_ ? most(1, plain_to_ - plain_from_) : 1;
      const std::int64_t taps = last(i) - first(i) + 1;
      for (std::int64_t k = 0; k < taps; ++k) rows[k] = coefficients + (first(i) + k) * inner;
      T* result = image + i * inner;
      blend_rows<T>(rows, weights_.as<T>() + i * width_, taps, &result, 1, run * inner);
      i += run;
    }
  }

  std::int64_t count_, edge_, width_, plain_from_, plain_to_;
  Buffer weights_, span_;
};

template <class T>
void from_coefficients(const Volume& volume, Boundary boundary, const T* coefficients, T* image) {
  const std::int64_t edge = boundary == Boundary::nearest ? edge_extension : 0;
  std::int64_t outer = volume.batch, inner = volume.channels;
  for (int d = 1; d < volume.ndim; ++d) inner *= volume.size[d] + 2 * edge;
  Buffer space[max_ndim];
  const T* here = coefficients;
  for (int d = 0; d < volume.ndim; ++d) {
    const bool done = d == volume.ndim - 1;
    if (!done) space[d].grow(outer * volume.size[d] * inner * static_cast<std::int64_t>(sizeof(T)));
    T* next = done ? image : space[d].template as<T>();
    Transposed<T>(volume.size[d], boundary).apply(outer, inner, here, next);
    here = next;
    outer *= volume.size[d];
    if (!done) inner /= volume.size[d + 1] + 2 * edge;
  }
}

}  // namespace
}  // namespace filters

void prefilter(const Volume& volume, Boundary boundary, const void* image, void* coefficients) {
  if (filters::is_empty(volume)) return;
  if (volume.type == Type::float64) {
    filters::to_coefficients(volume, boundary, static_cast<const double*>(image), static_cast<double*>(coefficients));
  } else {
    filters::to_coefficients(volume, boundary, static_cast<const float*>(image), static_cast<float*>(coefficients));
  }
}

void prefilter_adjoint(const Volume& volume, Boundary boundary, const void* coefficients, void* image) {
  if (filters::is_empty(volume)) return;
  if (volume.type == Type::float64) {
    filters::from_coefficients(volume, boundary, static_cast<const double*>(coefficients),
                               static_cast<double*>(image));
  } else {
    filters::from_coefficients(volume, boundary, static_cast<const float*>(coefficients), static_cast<float*>(image));
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
