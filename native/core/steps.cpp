// What an iteration of the solver does voxel by voxel, each in one pass: where displaced voxels read, what pushes them,
// and how far they go.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "choose.hpp"
#include "threads.hpp"
#include "types.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {
namespace steps {
namespace {

constexpr std::int64_t grain = 1 << 13;  // voxels

// A matrix of the caller in the arithmetic of the arrays.
template <class T, int N, int Columns>
struct Matrix {
  T entry[N][Columns];

  explicit Matrix(const double* from) {
    for (int i = 0; i < N; ++i) {
      for (int j = 0; j < Columns; ++j) entry[i][j] = static_cast<T>(from[i * Columns + j]);
    }
  }

  // Row i times a vector of N; a further column is left out.
  T times(int i, const T* vector) const {
    T total = entry[i][0] * vector[0];
    for (int j = 1; j < N; ++j) total += entry[i][j] * vector[j];
    return total;
  }
};

template <class T, int N>
void locate(const Volume& volume, const double* matrix, const std::int64_t* shape, const T* displacement, T* positions,
            T* inside) {
  const Matrix<T, N, N + 1> map(matrix);
  T middle[N];
  for (int d = 0; d < N; ++d) middle[d] = static_cast<T>(shape[d] - 1) / 2;
  const std::int64_t line = volume.size[N - 1];
  std::int64_t lines = volume.batch;
  for (int d = 0; d < N - 1; ++d) lines *= volume.size[d];
  const std::int64_t some = std::max<std::int64_t>(1, grain / std::max<std::int64_t>(1, line));
  parallel(lines, some, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      double start[N];
      for (int i = 0; i < N; ++i) start[i] = matrix[i * (N + 1) + N];
      std::int64_t rest = row;
      for (int d = N - 2; d >= 0; --d) {
        const auto index = static_cast<double>(rest % volume.size[d]);
        rest /= volume.size[d];
        for (int i = 0; i < N; ++i) start[i] += matrix[i * (N + 1) + d] * index;
      }
      const T* from = displacement + row * line * N;
      T* to = positions + row * line * N;
      T* weight = inside + row * line;
      for (std::int64_t k = 0; k < line; ++k) {
        T depth = 1;
        for (int i = 0; i < N; ++i) {
          const T place = static_cast<T>(start[i] + matrix[i * (N + 1) + N - 1] * static_cast<double>(k)) +
                          map.times(i, from + k * N);
          to[k * N + i] = place;
          depth *= std::clamp(middle[i] + 1 - std::abs(place - middle[i]), T(0), T(1));
        }
        weight[k] = depth;
      }
    }
  });
}

template <class T, int N>
void push(std::int64_t count, const double* matrix, const T* slope, const T* derivative, const T* curvature, T* pushed) {
  const Matrix<T, N, N> map(matrix);
  parallel(count, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t at = first; at < last; ++at) {
      T square = 0;
      for (int i = 0; i < N; ++i) {
        const T along = map.times(i, slope + at * N);
        pushed[at * (N + 1) + i] = derivative[at] * along;
        square += along * along;
      }
      pushed[at * (N + 1) + N] = curvature[at] * square;
    }
  });
}

template <class T, int N>
void limit(std::int64_t count, const double* matrix, double damping, double most, const T* pushed, T* update) {
  const Matrix<T, N, N> map(matrix);
  const auto softly = static_cast<T>(damping), longest = static_cast<T>(most);
  parallel(count, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t at = first; at < last; ++at) {
      const T* from = pushed + at * (N + 1);
      T step[N], square = 0;
      for (int i = 0; i < N; ++i) {
        step[i] = from[i] / (from[N] + softly);
        square += step[i] * step[i];
      }
      const T share = longest / std::max(std::sqrt(square), longest);
      for (int i = 0; i < N; ++i) step[i] *= share;
      for (int i = 0; i < N; ++i) update[at * N + i] = map.times(i, step);
    }
  });
}

// Call then(type, ndim) for a volume of one component per axis.
template <class Then>
void choose_step(const Volume& volume, const Then& then) {
  choose_ndim(volume.ndim, [&](auto ndim) {
    if (volume.type == Type::float64) return then(Kind<double>{}, ndim);
    return then(Kind<float>{}, ndim);
  });
}

std::int64_t count_voxels(const Volume& volume) {
  std::int64_t count = volume.batch;
  for (int d = 0; d < volume.ndim; ++d) count *= volume.size[d];
  return count;
}

}  // namespace
}  // namespace steps

void locate(const Volume& volume, const double* matrix, const std::int64_t* shape, const void* displacement,
            void* positions, void* inside) {
  steps::choose_step(volume, [&](auto kind, auto ndim) {
    using T = typename decltype(kind)::type;
    steps::locate<T, ndim()>(volume, matrix, shape, static_cast<const T*>(displacement), static_cast<T*>(positions),
                             static_cast<T*>(inside));
  });
}

void push(const Volume& volume, const double* matrix, const void* slope, const void* derivative, const void* curvature,
          void* pushed) {
  steps::choose_step(volume, [&](auto kind, auto ndim) {
    using T = typename decltype(kind)::type;
    steps::push<T, ndim()>(steps::count_voxels(volume), matrix, static_cast<const T*>(slope),
                           static_cast<const T*>(derivative), static_cast<const T*>(curvature),
                           static_cast<T*>(pushed));
  });
}

void limit(const Volume& volume, const double* matrix, double damping, double most, const void* pushed, void* update) {
  steps::choose_step(volume, [&](auto kind, auto ndim) {
    using T = typename decltype(kind)::type;
    steps::limit<T, ndim()>(steps::count_voxels(volume), matrix, damping, most, static_cast<const T*>(pushed),
                            static_cast<T*>(update));
  });
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
