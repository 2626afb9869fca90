// Mean squared difference of two images, and their correlation as wholes, with the derivatives to the moved one.
//
// The correlation of a channel is r = sum_i f'_i m'_i / N of images brought to mean 0 and variance 1, m' = (m - mean) / s.
// Since r changes neither with an offset nor with a scale of m, its derivative is (f'_i - r m'_i) / (N s).
#include "measures.hpp"
#include "patterns.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {
namespace filters {
namespace {

// Sum of squared differences of some elements, and the derivative. Short stretches are summed in the type of the image.
template <class T, bool Derive>
double compare_block(const T* fixed, const T* moved, std::int64_t count, T factor, T* derivative) {
  using V = Pack<T>;
  constexpr std::int64_t wide = lanes<T>, step = 4 * wide;
  double total = 0;
  std::int64_t i = 0;
  while (i + step <= count) {
    V sum[4] = {};
    for (const std::int64_t stop = least(count, i + 32 * step); i + step <= stop; i += step) {
      for (int s = 0; s < 4; ++s) {
        const V difference = load<V>(moved + i + s * wide) - load<V>(fixed + i + s * wide);
        sum[s] += difference * difference;
        if constexpr (Derive) store<V>(derivative + i + s * wide, difference * factor);
      }
    }
    for (std::int64_t k = 0; k < wide; ++k) {
      for (int s = 0; s < 4; ++s) total += static_cast<double>(sum[s][k]);
    }
  }
  for (; i < count; ++i) {
    const T difference = moved[i] - fixed[i];
    total += static_cast<double>(difference) * static_cast<double>(difference);
    if constexpr (Derive) derivative[i] = difference * factor;
  }
  return total;
}

template <class T>
double sum_differences(const Pattern& pattern, const T* fixed, const T* moved, T* derivative) {
  Buffer space(pattern.blocks * static_cast<std::int64_t>(sizeof(double)));
  double* partial = space.as<double>();
  const T factor = static_cast<T>(2 / static_cast<double>(pattern.elements));
  const auto work = derivative == nullptr ? compare_block<T, false> : compare_block<T, true>;
  parallel(pattern.blocks, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t block = first; block < last; ++block) {
      const std::int64_t at = block * pattern.block, count = least(pattern.block, pattern.elements - at);
      partial[block] = work(fixed + at, moved + at, count, factor, derivative + (derivative == nullptr ? 0 : at));
    }
  });
  double sum = 0;
  for (std::int64_t block = 0; block < pattern.blocks; ++block) sum += partial[block];
  return sum / static_cast<double>(pattern.elements);
}

// The derivative of a correlation is linear in the images: what to multiply them by, for each element of a row.
template <class T>
struct Line {
  T *origin_f, *origin_m, *to_f, *to_m, *offset;
};

template <class T>
void derive_row(const Line<T>& line, const T* KERAMORPH_RESTRICT f, const T* KERAMORPH_RESTRICT m, std::int64_t count,
                T* KERAMORPH_RESTRICT derivative) {
  const T *origin_f = line.origin_f, *origin_m = line.origin_m, *offset = line.offset;
  const T *to_f = line.to_f, *to_m = line.to_m;
  KERAMORPH_INDEPENDENT
  for (std::int64_t i = 0; i < count; ++i) {
    derivative[i] = to_f[i] * (f[i] - origin_f[i]) - to_m[i] * (m[i] - origin_m[i]) + offset[i];
  }
}

template <class T>
double correlate(const Pattern& pattern, const T* fixed, const T* moved, T* derivative) {
  const std::int64_t channels = pattern.channels, row = pattern.row;
  Buffer moment_space(channels * static_cast<std::int64_t>(sizeof(Moments)));
  Buffer line_space(5 * row * static_cast<std::int64_t>(sizeof(T)));
  Moments* moments = moment_space.as<Moments>();
  sum_moments(pattern, fixed, moved, moments);
  T* lines = line_space.as<T>();
  const Line<T> line{lines, lines + row, lines + 2 * row, lines + 3 * row, lines + 4 * row};
  const double share = 1 / static_cast<double>(pattern.elements);
  double sum = 0;
  for (std::int64_t k = 0; k < channels; ++k) {
    const Levels levels = find_levels(moments[k], pattern.voxels);
    sum += levels.correlation;
    const double to_f = levels.scale_f * levels.scale_m * share;
    const double to_m = levels.correlation * levels.scale_m * levels.scale_m * share;
    for (std::int64_t i = k; i < row; i += channels) {
      line.origin_f[i] = static_cast<T>(moments[k].origin_f);
      line.origin_m[i] = static_cast<T>(moments[k].origin_m);
      line.to_f[i] = static_cast<T>(to_f);
      line.to_m[i] = static_cast<T>(to_m);
      line.offset[i] = static_cast<T>(to_m * levels.mean_m - to_f * levels.mean_f);
    }
  }
  const double value = sum / static_cast<double>(channels);
  if (derivative != nullptr) {
    parallel(pattern.elements, pattern.block, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t at = first; at < last; at += row) {
        derive_row(line, fixed + at, moved + at, least(row, last - at), derivative + at);
      }
    });
  }
  // Rounding can take the correlation of an image with itself past 1; NaN stays.
  return value > 1 ? 1 : value < -1 ? -1 : value;
}

}  // namespace
}  // namespace filters

void compare_differences(const Volume& volume, const void* fixed, const void* moved, void* value, void* derivative) {
  filters::choose_type(volume, [&](auto one) {
    using T = decltype(one);
    filters::compare_entries<T>(volume, fixed, moved, value, derivative, filters::sum_differences<T>);
  });
}

void compare_correlations(const Volume& volume, const void* fixed, const void* moved, void* value, void* derivative) {
  filters::choose_type(volume, [&](auto one) {
    using T = decltype(one);
    filters::compare_entries<T>(volume, fixed, moved, value, derivative, filters::correlate<T>);
  });
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
