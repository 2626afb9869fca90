// Images of several channels as rows of elements: whatever belongs to a channel is written out once for each element of a
// row, so that one loop over neighbouring elements serves any number of channels.
#pragma once

#include <cmath>

#include "lanes.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS::filters {

// One entry of a batch: `elements` are voxels times channels. Work is cut into blocks, and blocks into rows.
struct Pattern {
  std::int64_t voxels, channels, elements, row, block, blocks;
};

inline Pattern lay_out_rows(const Volume& volume) {
  Pattern pattern{1, volume.channels, 0, 0, 0, 0};
  for (int d = 0; d < volume.ndim; ++d) pattern.voxels *= volume.size[d];
  pattern.elements = pattern.voxels * volume.channels;
  pattern.row = (64 + volume.channels - 1) / volume.channels * volume.channels;
  pattern.block = most(1, (1 << 15) / pattern.row) * pattern.row;
  pattern.blocks = (pattern.elements + pattern.block - 1) / pattern.block;
  return pattern;
}

// Sums over the voxels of one channel of two images, each relative to an origin near its mean.
struct Moments {
  double origin_f, origin_m, f, m, ff, mm, fm;
};

// What follows from them. A constant image has a scale of 0, and NaN goes through.
struct Levels {
  double mean_f, mean_m, scale_f, scale_m, correlation;  // means relative to the origins
};

inline double find_scale(double variance, double level) {
  // Less than this is what rounding leaves of a constant image; the same number as in `keramorph.losses`.
  return variance <= 1e-12 * level * level ? 0.0 : 1 / std::sqrt(variance);
}

inline Levels find_levels(const Moments& sum, std::int64_t voxels) {
  const double share = 1 / static_cast<double>(voxels);
  const double f = sum.f * share, m = sum.m * share;
  const double scale_f = find_scale(sum.ff * share - f * f, sum.origin_f + f);
  const double scale_m = find_scale(sum.mm * share - m * m, sum.origin_m + m);
  return {f, m, scale_f, scale_m, (sum.fm * share - f * m) * scale_f * scale_m};
}

// Mean of some voxels. One voxel alone might lie so far from all others that their squares drown in its own.
template <class T>
double guess_mean(const T* image, const Pattern& pattern, std::int64_t channel) {
  const std::int64_t step = (pattern.voxels + 255) / 256;
  double sum = 0;
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < pattern.voxels; i += step, ++count) {
    sum += static_cast<double>(image[i * pattern.channels + channel]);
  }
  return static_cast<double>(static_cast<T>(sum / static_cast<double>(count)));
}

// Moments of a row of elements, added to those of each element's place in the row.
template <class T>
void add_moments(const T* KERAMORPH_RESTRICT f, const T* KERAMORPH_RESTRICT m, const T* KERAMORPH_RESTRICT origins,
                 std::int64_t row, std::int64_t count, T* KERAMORPH_RESTRICT sums) {
  KERAMORPH_INDEPENDENT
  for (std::int64_t i = 0; i < count; ++i) {
    const T a = f[i] - origins[i], b = m[i] - origins[row + i];
    sums[i] += a;
    sums[row + i] += b;
    sums[2 * row + i] += a * a;
    sums[3 * row + i] += b * b;
    sums[4 * row + i] += a * b;
  }
}

// Moments of every channel, in one pass over both images. Rows are added up in the type of the image, a few at a time.
template <class T>
void sum_moments(const Pattern& pattern, const T* fixed, const T* moved, Moments* moments) {
  constexpr std::int64_t few = 32, size = sizeof(T);
  const std::int64_t row = pattern.row, channels = pattern.channels;
  Buffer origin_space(2 * row * size), partial_space(pattern.blocks * channels * 5 * 8);
  T* origins = origin_space.as<T>();
  double* partial = partial_space.as<double>();
  for (std::int64_t k = 0; k < channels; ++k) {
    moments[k] = {guess_mean(fixed, pattern, k), guess_mean(moved, pattern, k), 0, 0, 0, 0, 0};
    for (std::int64_t i = k; i < row; i += channels) {
      origins[i] = static_cast<T>(moments[k].origin_f);
      origins[row + i] = static_cast<T>(moments[k].origin_m);
    }
  }
  Workspaces spaces(5 * row * size);
  parallel(pattern.blocks, 1, [&](std::int64_t first, std::int64_t last) {
    Workspaces::Lease space(spaces);
    T* sums = space.as<T>();
    for (std::int64_t block = first; block < last; ++block) {
      double* total = partial + block * channels * 5;
      for (std::int64_t i = 0; i < 5 * channels; ++i) total[i] = 0;
      const std::int64_t end = least(pattern.elements, (block + 1) * pattern.block);
      for (std::int64_t at = block * pattern.block; at < end;) {
        for (std::int64_t i = 0; i < 5 * row; ++i) sums[i] = T(0);
        for (const std::int64_t stop = least(end, at + few * row); at < stop; at += row) {
          add_moments(fixed + at, moved + at, origins, row, least(row, stop - at), sums);
        }
        for (std::int64_t i = 0, k = 0; i < row; ++i, k = k + 1 == channels ? 0 : k + 1) {
          for (int q = 0; q < 5; ++q) total[k * 5 + q] += static_cast<double>(sums[q * row + i]);
        }
      }
    }
  });
  for (std::int64_t block = 0; block < pattern.blocks; ++block) {
    for (std::int64_t k = 0; k < channels; ++k) {
      const double* total = partial + (block * channels + k) * 5;
      moments[k].f += total[0], moments[k].m += total[1];
      moments[k].ff += total[2], moments[k].mm += total[3], moments[k].fm += total[4];
    }
  }
}

// Call work(type, one of it) for the type of a volume.
template <class Work>
void choose_type(const Volume& volume, const Work& work) {
  volume.type == Type::float64 ? work(1.0) : work(1.0f);
}

// One value for each entry of the batch by one_pair(pattern, fixed, moved, derivative).
template <class T, class Compare>
void compare_entries(const Volume& volume, const void* fixed, const void* moved, void* value, void* derivative,
                     const Compare& one_pair) {
  const Pattern pattern = lay_out_rows(volume);
  for (std::int64_t entry = 0; entry < volume.batch; ++entry) {
    const std::int64_t at = entry * pattern.elements;
    T* result = derivative == nullptr ? nullptr : static_cast<T*>(derivative) + at;
    const T *f = static_cast<const T*>(fixed) + at, *m = static_cast<const T*>(moved) + at;
    static_cast<T*>(value)[entry] = pattern.elements == 0 ? T(0) : static_cast<T>(one_pair(pattern, f, m, result));
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS::filters
