// Descriptors of self-similarity (MIND-SSC) of rows of voxels, and how a difference of them leads back.
//
// Each of K pairs of neighbours of a voxel gives a distance e_k between the patches around them. With d_k = e_k - min e,
// V = mean_k d_k, T = floor + the mean of V over the image, and v = V kept within [a T, T / a], the descriptors are
// D_k = exp(-d_k / v), and the images differ by L = mean (D_k - F_k)^2, F being those of the fixed image. Backwards, in
// units of 2 / (number of descriptors), with g_k = (D_k - F_k) D_k / v:
//   dL/dv = sum_k g_k d_k / v,   dL/dV = dL/dv where V is inside its bounds, else 0,   plus c = dL/dT / N for every voxel,
//   dL/de_k = -g_k + dL/dV / K - (sum_j -g_j + dL/dV) / ties   where e_k is least, and without the last term elsewhere.
#pragma once

#include "tiles.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS::filters {

constexpr double variance_range = 1e-3;  // a, and
constexpr double variance_floor = 1e-6;  // the floor: those of `keramorph.losses.MINDSSC`

// exp(x) for x <= 0 to the last digits, in operations that a compiler turns into vectors.
KERAMORPH_INLINE float exponential(float x) {
  const float within = x < -87.0f ? -87.0f : x;
  const float shifted = within * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
  const float r = (within - whole * 0.693359375f) + whole * 2.12194440e-4f;
  const float series =
      1 + r * (1 + r * (1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
  // The sum has left the whole number in the low bits, from where it goes into the exponent.
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, shifted);
  return series * __builtin_bit_cast(float, (bits << 23) + 0x3f800000u);
}

KERAMORPH_INLINE double exponential(double x) {
  const double within = x < -708.0 ? -708.0 : x;
  const double shifted = within * 1.4426950408889634 + 6755399441055744.0, whole = shifted - 6755399441055744.0;
  const double r = (within - whole * 6.93147180369123816490e-01) - whole * 1.90821492927058770002e-10;
  double series = 1;
  for (int k = 13; k > 0; --k) series = 1 + series * r * (1.0 / k);
  const std::uint64_t bits = __builtin_bit_cast(std::uint64_t, shifted);
  return series * __builtin_bit_cast(double, (bits << 52) + 0x3ff0000000000000u);
}

// Pairs of neighbours on different axes; neighbour 2 d lies before the voxel along axis d, neighbour 2 d + 1 behind it.
template <int D>
struct Pairs {
  static constexpr int count = 2 * D * (D - 1), neighbours = 2 * D;
  int first[count], second[count];

  constexpr Pairs() : first(), second() {
    int k = 0;
    for (int a = 0; a < neighbours; ++a) {
      for (int b = a + 1; b < neighbours; ++b) {
        if (a / 2 != b / 2) first[k] = a, second[k] = b, ++k;
      }
    }
  }
};

// Elements of a row that are described at once, so that all about them stays in the first-level cache.
constexpr std::int64_t segment = tile_length;

// Elements, rounded up to whole registers: those too many cost nothing, and no single ones are left over.
template <class T>
KERAMORPH_INLINE std::int64_t rounded(std::int64_t count) {
  return (count + lanes<T> - 1) / lanes<T> * lanes<T>;
}

// Sums of squares become distances by `share`; the local variance stays between `lower` and `upper`.
template <class T>
struct Bounds {
  const T *share, *lower, *upper;
};

template <class T>
struct Settled {
  T share[segment], low[segment], spread[segment], inverse[segment];
};

// What all descriptors of some voxels have in common; `rows` are the sums of squares of the K pairs.
template <class T, int K>
void settle(const T* rows, std::int64_t pitch, const Bounds<T>& bounds, std::int64_t at, std::int64_t count, T across,
            Settled<T>& settled) {
  const T *KERAMORPH_RESTRICT shares = bounds.share + at, *KERAMORPH_RESTRICT lower = bounds.lower + at;
  const T* KERAMORPH_RESTRICT upper = bounds.upper + at;
  const std::int64_t whole = rounded<T>(count);
  KERAMORPH_INDEPENDENT
  for (std::int64_t i = 0; i < whole; ++i) {
    const T* from = rows + i;
    T low = from[0], sum = T(0);
    for (int k = 1; k < K; ++k) low = from[k * pitch] < low ? from[k * pitch] : low;
    for (int k = 0; k < K; ++k) sum += from[k * pitch] - low;
    const T share = shares[i] * across, spread = sum * (share / K);
    const T within = spread < lower[i] ? lower[i] : spread > upper[i] ? upper[i] : spread;
    settled.share[i] = share;
    settled.low[i] = low;
    settled.spread[i] = spread;
    settled.inverse[i] = 1 / within;
  }
}

// Sums over the descriptors of some voxels: of (D - F)^2, of g, and dL/dv.
template <class T>
struct Gathered {
  T squares[segment], slopes[segment], bend[segment];
};

// Compare the descriptors of some voxels. The rows of the fixed image become -g_k.
template <class T, int K>
void gather_differences(T* fixed, const T* moved, std::int64_t pitch, std::int64_t count, const Settled<T>& f,
                        const Settled<T>& m, Gathered<T>& gathered) {
  for (std::int64_t i = 0; i < segment; ++i) gathered.squares[i] = gathered.slopes[i] = gathered.bend[i] = T(0);
  const std::int64_t whole = rounded<T>(count);
  for (int k = 0; k < K; ++k) {
    T* one = fixed + k * pitch;
    const T* other = moved + k * pitch;
    KERAMORPH_INDEPENDENT
    for (std::int64_t i = 0; i < whole; ++i) {
      const T of_f = (f.low[i] - one[i]) * (f.share[i] * f.inverse[i]);
      const T of_m = (m.low[i] - other[i]) * (m.share[i] * m.inverse[i]);
      const T descriptor = exponential(of_m), difference = descriptor - exponential(of_f);
      const T g = difference * descriptor * m.inverse[i];
      gathered.squares[i] += difference * difference;
      gathered.slopes[i] -= g;
      gathered.bend[i] -= g * of_m;
      one[i] = -g;
    }
  }
}

// From -g_k to dL/de_k, times what turns sums into distances. `constant` is c.
template <class T, int K>
void lead_back(const T* negative, const T* moved, std::int64_t pitch, std::int64_t at, std::int64_t count,
               const Bounds<T>& bounds, const T* constant, const Settled<T>& m, const Gathered<T>& gathered, T* slopes,
               std::int64_t slope_pitch) {
  const T *KERAMORPH_RESTRICT lower = bounds.lower + at, *KERAMORPH_RESTRICT upper = bounds.upper + at;
  const T* KERAMORPH_RESTRICT constants = constant + at;
  KERAMORPH_INDEPENDENT
  for (std::int64_t i = 0; i < count; ++i) {
    const bool inside = m.spread[i] >= lower[i] && m.spread[i] <= upper[i];
    const T bend = (inside ? gathered.bend[i] : gathered.bend[i] * 0) + constants[i];
    T ties = T(0);
    for (int k = 0; k < K; ++k) ties += moved[k * pitch + i] == m.low[i] ? T(1) : T(0);
    const T back = (gathered.slopes[i] + bend) / ties;
    for (int k = 0; k < K; ++k) {
      const T least = moved[k * pitch + i] == m.low[i] ? back : T(0);
      slopes[k * slope_pitch + i] = (negative[k * pitch + i] + bend * T(1.0 / K) - least) * m.share[i];
    }
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS::filters
