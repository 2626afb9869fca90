// Vectors of a few lanes, by the compilers' own extension: one source for every instruction set.
//
// Included inside no namespace; everything lives in that of the instruction set the source is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Vectors must stay in registers: a function that takes them and is not inlined passes them through memory.
#define KERAMORPH_INLINE inline __attribute__((always_inline))

namespace keramorph::KERAMORPH_INSTRUCTIONS {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;  // SSE or NEON: more would only spill registers, and take the compiler twice as long
#endif

template <class R>
struct VectorOf {
  typedef R type __attribute__((vector_size(lanes * sizeof(R))));
};
template <class R>
using Vector = typename VectorOf<R>::type;
using Index = Vector<std::int32_t>;
using Unsigned = Vector<std::uint32_t>;

template <class R>
KERAMORPH_INLINE Vector<R> broadcast(R value) {
  return value - Vector<R>{};
}

KERAMORPH_INLINE Index count_up() {
  Index result;
  for (int l = 0; l < lanes; ++l) result[l] = l;
  return result;
}

// Index vector from a comparison of any width: -1 where true.
template <class M>
KERAMORPH_INLINE Index to_index(M mask) {
  return __builtin_convertvector(mask, Index);
}

KERAMORPH_INLINE bool any(Index mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  std::int32_t all = 0;
  for (int l = 0; l < lanes; ++l) all |= mask[l];
  return all != 0;
#endif
}

KERAMORPH_INLINE Index smaller(Index a, Index b) { return a < b ? a : b; }
KERAMORPH_INLINE Index larger(Index a, Index b) { return a > b ? a : b; }

// Held inside low .. high; NaN becomes `low`.
template <class V, class R>
KERAMORPH_INLINE V hold(V value, R low, R high) {
  V held = value > low ? value : V{} + low;
  return held < high ? held : V{} + high;
}

// The next whole numbers below, of values that fit 32 bits.
template <class V>
KERAMORPH_INLINE V round_down(V value) {
  const Index whole = __builtin_convertvector(value, Index);
  const V towards_zero = __builtin_convertvector(whole, V);
  return towards_zero + __builtin_convertvector(to_index(towards_zero > value), V);
}

#if defined(__AVX512F__)
template <>
KERAMORPH_INLINE Vector<float> hold(Vector<float> value, float low, float high) {
  return (Vector<float>)_mm512_min_ps(_mm512_max_ps((__m512)value, _mm512_set1_ps(low)), _mm512_set1_ps(high));
}
template <>
KERAMORPH_INLINE Vector<float> round_down(Vector<float> value) {
  return (Vector<float>)_mm512_roundscale_ps((__m512)value, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
#elif defined(__AVX2__)
template <>
KERAMORPH_INLINE Vector<float> hold(Vector<float> value, float low, float high) {
  return (Vector<float>)_mm256_min_ps(_mm256_max_ps((__m256)value, _mm256_set1_ps(low)), _mm256_set1_ps(high));
}
template <>
KERAMORPH_INLINE Vector<float> round_down(Vector<float> value) {
  return (Vector<float>)_mm256_floor_ps((__m256)value);
}
#endif

template <class V>
KERAMORPH_INLINE V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <class V>
KERAMORPH_INLINE void store(void* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

// Shuffles of D interleaved components: element e of the memory is component e % D of lane e / D.
template <int D, int component, std::size_t... lane>
KERAMORPH_INLINE auto pick_first(std::index_sequence<lane...>) {
  return std::integer_sequence<int, (int(lane) * D + component < 2 * lanes ? int(lane) * D + component : 0)...>{};
}
template <int D, int component, std::size_t... lane>
KERAMORPH_INLINE auto pick_second(std::index_sequence<lane...>) {
  return std::integer_sequence<int, (int(lane) * D + component < 2 * lanes
                                         ? int(lane)
                                         : int(lane) * D + component - lanes)...>{};
}
template <int D, int part, std::size_t... k>
KERAMORPH_INLINE auto put_first(std::index_sequence<k...>) {
  return std::integer_sequence<int, ((part * lanes + int(k)) % D == 0   ? (part * lanes + int(k)) / D
                                     : (part * lanes + int(k)) % D == 1 ? lanes + (part * lanes + int(k)) / D
                                                                        : 0)...>{};
}
template <int D, int part, std::size_t... k>
KERAMORPH_INLINE auto put_second(std::index_sequence<k...>) {
  return std::integer_sequence<int, ((part * lanes + int(k)) % D == 2 ? lanes + (part * lanes + int(k)) / D
                                                                      : int(k))...>{};
}
template <class V, int... i>
KERAMORPH_INLINE V shuffle(V a, V b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, i...);
}
using Lanes = std::make_index_sequence<lanes>;

// Read `lanes` positions of D interleaved components.
template <int D, class R>
KERAMORPH_INLINE void load_components(const R* from, Vector<R> (&to)[D]) {
  using V = Vector<R>;
  if constexpr (D == 1) {
    to[0] = load<V>(from);
  } else if constexpr (D == 2) {
    const V a = load<V>(from), b = load<V>(from + lanes);
    to[0] = shuffle(a, b, pick_first<2, 0>(Lanes{}));
    to[1] = shuffle(a, b, pick_first<2, 1>(Lanes{}));
  } else {
    const V a = load<V>(from), b = load<V>(from + lanes), c = load<V>(from + 2 * lanes);
    to[0] = shuffle(shuffle(a, b, pick_first<3, 0>(Lanes{})), c, pick_second<3, 0>(Lanes{}));
    to[1] = shuffle(shuffle(a, b, pick_first<3, 1>(Lanes{})), c, pick_second<3, 1>(Lanes{}));
    to[2] = shuffle(shuffle(a, b, pick_first<3, 2>(Lanes{})), c, pick_second<3, 2>(Lanes{}));
  }
}

// Write `lanes` positions of D interleaved components.
template <int D, class R>
KERAMORPH_INLINE void store_components(R* to, const Vector<R> (&from)[D]) {
  using V = Vector<R>;
  if constexpr (D == 1) {
    store(to, from[0]);
  } else if constexpr (D == 2) {
    store(to, V(shuffle(from[0], from[1], put_first<2, 0>(Lanes{}))));
    store(to + lanes, V(shuffle(from[0], from[1], put_first<2, 1>(Lanes{}))));
  } else {
    store(to, V(shuffle(shuffle(from[0], from[1], put_first<3, 0>(Lanes{})), from[2], put_second<3, 0>(Lanes{}))));
    store(to + lanes,
          V(shuffle(shuffle(from[0], from[1], put_first<3, 1>(Lanes{})), from[2], put_second<3, 1>(Lanes{}))));
    store(to + 2 * lanes,
          V(shuffle(shuffle(from[0], from[1], put_first<3, 2>(Lanes{})), from[2], put_second<3, 2>(Lanes{}))));
  }
}

// Have the compiler read an array from memory: to take the lanes out of a register again costs several times as much.
template <class T, std::size_t count>
KERAMORPH_INLINE void keep_in_memory(T (&array)[count]) {
#if defined(__GNUC__)
  __asm__ volatile("" : "+m"(array));
#endif
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
