// Mean and spread of an image, added up in an order that does not depend on the number of threads.
#pragma once

#include <cmath>

#include "lanes.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS::filters {

// Add a row's sum and sum of squares of value - origin to `sum`. Short stretches are summed in the type of the image.
template <class T>
void gather(const T* row, std::int64_t count, std::int64_t channel, std::int64_t step, T origin, double (&sum)[2]) {
  constexpr std::int64_t wide = 4 * lanes<T>;
  std::int64_t i = channel;
  while (step == 1 && i + wide <= count) {
    T first[wide] = {}, second[wide] = {};
    for (const std::int64_t end = least(count, i + 32 * wide); i + wide <= end; i += wide) {
      for (std::int64_t k = 0; k < wide; ++k) {
        const T value = row[i + k] - origin;
        first[k] += value;
        second[k] += value * value;
      }
    }
    for (std::int64_t k = 0; k < wide; ++k) sum[0] += first[k], sum[1] += second[k];
  }
  for (; i < count; i += step) {
    const double value = static_cast<double>(row[i]) - static_cast<double>(origin);
    sum[0] += value;
    sum[1] += value * value;
  }
}

// Mean and scale of an image, from every `stride`-th row: written out for each element of a row.
template <class T>
void measure(const T* image, std::int64_t lines, std::int64_t row, std::int64_t channels, bool standardise, T* shift,
             T* scale) {
  // An offset is taken off for the sake of rounding alone where the images are not standardised: any near one will do.
  const std::int64_t stride = standardise || lines < 64 ? 1 : 8, used = (lines + stride - 1) / stride, grain = 64;
  const std::int64_t parts = (used + grain - 1) / grain;
  Buffer space(parts * channels * 2 * static_cast<std::int64_t>(sizeof(double)));
  double* partial = space.as<double>();
  parallel(parts, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t part = first; part < last; ++part) {
      for (std::int64_t k = 0; k < channels; ++k) {
        double sum[2] = {};
        for (std::int64_t line = part * grain; line < least((part + 1) * grain, used); ++line) {
          gather(image + line * stride * row, row, k, channels, image[k], sum);
        }
        partial[(part * channels + k) * 2] = sum[0];
        partial[(part * channels + k) * 2 + 1] = sum[1];
      }
    }
  });
  const double voxels = static_cast<double>(used * (row / channels));
  for (std::int64_t k = 0; k < channels; ++k) {
    double sum = 0, square = 0;
    for (std::int64_t part = 0; part < parts; ++part) {
      sum += partial[(part * channels + k) * 2];
      square += partial[(part * channels + k) * 2 + 1];
    }
    const double mean = sum / voxels, variance = square / voxels - mean * mean;
    const double origin = static_cast<double>(image[k]), level = origin + mean;
    // Where less varies than rounding leaves of a constant, there is nothing to compare. NaN goes through.
    const double factor = variance <= 1e-12 * level * level ? 0.0 : 1 / std::sqrt(variance);
    for (std::int64_t i = k; i < row; i += channels) {
      shift[i] = static_cast<T>(level);
      scale[i] = standardise ? static_cast<T>(factor) : T(1);
    }
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS::filters
