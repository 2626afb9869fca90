// Gaussian smoothing by truncated weights, never recursive: exact to rounding for any sigma, and as fast for the small
// ones that registration uses.
#include <cmath>

#include "convolve.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {
namespace filters {
namespace {

template <class T>
void smooth(const Volume& volume, const double* sigma, const T* input, T* output) {
  Filter axes[3];
  Buffer taps[3], from[3];
  std::int64_t count[3];
  spread_axes(volume, count);
  for (int d = 0; d < 3; ++d) {
    const double width = d < 3 - volume.ndim ? 0.0 : sigma[d - (3 - volume.ndim)];
    const auto radius = static_cast<std::int64_t>(4.0 * width + 0.5);
    taps[d].grow((2 * radius + 1) * static_cast<std::int64_t>(sizeof(T)));
    from[d].grow((count[d] + 2 * radius) * static_cast<std::int64_t>(sizeof(std::int32_t)));
    double norm = 1.0;
    for (std::int64_t k = 1; k <= radius; ++k) norm += 2.0 * std::exp(-0.5 * (k / width) * (k / width));
    for (std::int64_t k = -radius; k <= radius; ++k) {
      const double raw = k == 0 ? 1.0 : std::exp(-0.5 * (k / width) * (k / width));
      taps[d].as<T>()[k + radius] = static_cast<T>(raw / norm);
    }
    fold_line(count[d], radius, Boundary::reflect, from[d].as<std::int32_t>());
    axes[d] = {count[d], 0, radius, taps[d].as<T>(), from[d].as<std::int32_t>()};
  }
  Convolution<T>(axes, volume.channels, volume.batch).run(volume.batch, input, output);
}

}  // namespace
}  // namespace filters

void gaussian(const Volume& volume, const double* sigma, const void* input, void* output) {
  if (filters::is_empty(volume)) return;
  if (volume.type == Type::float64) {
    filters::smooth(volume, sigma, static_cast<const double*>(input), static_cast<double*>(output));
  } else {
    filters::smooth(volume, sigma, static_cast<const float*>(input), static_cast<float*>(output));
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
