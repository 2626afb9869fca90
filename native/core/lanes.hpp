// Vectors of one register and rows of them, for the filter kernels.
//
// In a namespace of its own inside that of the instruction set, so that no name here can meet one of the sampler's.
#pragma once

#include "scratch.hpp"
#include "types.hpp"
#include "vectors.hpp"

#define KERAMORPH_RESTRICT __restrict__
#define KERAMORPH_INDEPENDENT _Pragma("GCC ivdep")
#define KERAMORPH_UNROLL _Pragma("GCC unroll 16")
#define KERAMORPH_PREFETCH(address) __builtin_prefetch(address, 0, 2)

namespace keramorph::KERAMORPH_INSTRUCTIONS::filters {

#if defined(__AVX512F__)
constexpr int lane_bytes = 64;
#elif defined(__AVX2__)
constexpr int lane_bytes = 32;
#else
constexpr int lane_bytes = 16;
#endif

template <class T>
constexpr int lanes = lane_bytes / static_cast<int>(sizeof(T));

// The compiler's own vectors: SSE, AVX or NEON as the flags say. The second type of each pair reads unaligned memory.
template <class T>
struct PackOf;
template <>
struct PackOf<float> {
  typedef float type __attribute__((vector_size(lane_bytes)));
  typedef float loose __attribute__((vector_size(lane_bytes), aligned(4), may_alias));
};
template <>
struct PackOf<double> {
  typedef double type __attribute__((vector_size(lane_bytes)));
  typedef double loose __attribute__((vector_size(lane_bytes), aligned(8), may_alias));
};
template <class T>
using Pack = typename PackOf<T>::type;

template <class V, class T>
KERAMORPH_INLINE V load(const T* memory) {
  if constexpr (sizeof(V) == sizeof(T)) {
    return *memory;
  } else {
    return *reinterpret_cast<const typename PackOf<T>::loose*>(memory);
  }
}

template <class V, class T>
KERAMORPH_INLINE void store(T* memory, V value) {
  if constexpr (sizeof(V) == sizeof(T)) {
    *memory = value;
  } else {
    *reinterpret_cast<typename PackOf<T>::loose*>(memory) = value;
  }
}

// Call body.template at<V>(i) for steps that cover 0 .. count with `Steps` registers at a time. The last step overlaps
// the one before: a body must write what depends on its input alone, to memory that it does not read.
template <class T, class Body>
KERAMORPH_INLINE void cover(std::int64_t count, const Body& body) {
  constexpr std::int64_t wide = lanes<T>;
  if (count < wide) {
    for (std::int64_t i = 0; i < count; ++i) body.template at<T>(i);
    return;
  }
  for (std::int64_t i = 0; i + wide <= count; i += wide) body.template at<Pack<T>>(i);
  if (count % wide != 0) body.template at<Pack<T>>(count - wide);
}

KERAMORPH_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
KERAMORPH_INLINE std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// Elements, rounded up to whole cache lines.
template <class T>
KERAMORPH_INLINE std::int64_t padded(std::int64_t count) {
  constexpr std::int64_t line = 64 / sizeof(T);
  return (count + line - 1) / line * line;
}

KERAMORPH_INLINE bool is_empty(const Volume& volume) {
  std::int64_t count = volume.batch * volume.channels;
  for (int d = 0; d < volume.ndim; ++d) count *= volume.size[d];
  return count == 0;
}

// The sizes of a volume as three axes, leading ones of size 1 where it has fewer.
KERAMORPH_INLINE void spread_axes(const Volume& volume, std::int64_t (&count)[3]) {
  for (int d = 0; d < 3; ++d) count[d] = d < 3 - volume.ndim ? 1 : volume.size[d - (3 - volume.ndim)];
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS::filters
