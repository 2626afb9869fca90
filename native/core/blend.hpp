// The interpolants: values and derivatives from the taps around a position.
#pragma once

#include "positions.hpp"
#include "storage.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

// Multilinear: fetch(row, a, b) reads both taps of the last axis in row `row`, whose bits say which tap of the axes before
// it stands for. V is a vector of positions with a fraction each, or of channels with one fraction for all.
template <int D, bool derivative, class V, class F, class Fetch>
KERAMORPH_INLINE V blend_linear(const F (&fraction)[D], const Fetch& fetch, V (&slope)[D]) {
  constexpr int rows = 1 << (D - 1);
  V value[rows], along[rows];
  for (int row = 0; row < rows; ++row) {
    V a, b;
    fetch(row, a, b);
    along[row] = b - a;
    value[row] = a + fraction[D - 1] * along[row];
  }
  if constexpr (D == 1) {
    if constexpr (derivative) slope[0] = along[0];
    return value[0];
  } else if constexpr (D == 2) {
    const V step = value[1] - value[0];
    if constexpr (derivative) {
      slope[0] = step;
      slope[1] = along[0] + fraction[0] * (along[1] - along[0]);
    }
    return value[0] + fraction[0] * step;
  } else {
    const V first = value[1] - value[0], second = value[3] - value[2];
    const V near = value[0] + fraction[1] * first, far = value[2] + fraction[1] * second;
    if constexpr (derivative) {
      const V left = along[0] + fraction[1] * (along[1] - along[0]);
      const V right = along[2] + fraction[1] * (along[3] - along[2]);
      slope[0] = far - near;
      slope[1] = first + fraction[0] * (second - first);
      slope[2] = left + fraction[0] * (right - left);
    }
    return near + fraction[0] * (far - near);
  }
}

// Weights of the four cubic B-splines around a fraction, and their derivatives.
template <class R>
KERAMORPH_INLINE void weigh_cubic(R t, R (&weight)[4], R (&slope)[4]) {
  const R s = 1 - t;
  weight[0] = s * s * s / 6;
  weight[1] = (4 + t * t * (3 * t - 6)) / 6;
  weight[2] = (4 + s * s * (3 * s - 6)) / 6;
  weight[3] = t * t * t / 6;
  slope[0] = -s * s / 2;
  slope[1] = t * (R(1.5) * t - 2);
  slope[2] = s * (2 - R(1.5) * s);
  slope[3] = t * t / 2;
}

// Four taps of the last axis, or four channels.
template <class R>
struct FourOf {
  typedef R type __attribute__((vector_size(4 * sizeof(R))));
};
template <class R>
using Four = typename FourOf<R>::type;

// Four channels each of as many positions as a register holds.
template <class R>
constexpr int group = lanes > static_cast<int>(sizeof(R)) ? lanes / static_cast<int>(sizeof(R)) : 1;
template <class R>
struct GroupOf {
  typedef R type __attribute__((vector_size(group<R> * 4 * sizeof(R))));
  typedef R each __attribute__((vector_size(group<R> * sizeof(R))));
};
template <class R>
using Group = typename GroupOf<R>::type;

// One number of each position, for all of its channels.
template <class R, std::size_t... k>
KERAMORPH_INLINE Group<R> repeat(const R* from, std::index_sequence<k...>) {
  const auto each = load<typename GroupOf<R>::each>(from);
  return __builtin_shufflevector(each, each, (int(k) / 4)...);
}

template <class V, std::size_t... k>
KERAMORPH_INLINE auto join(V a, V b, std::index_sequence<k...>) {
  return __builtin_shufflevector(a, b, int(k)...);
}

// Four channels at each of the offsets.
template <class R>
KERAMORPH_INLINE Group<R> load_group(const R* from, const std::int32_t* offset) {
  const auto two = [&](int g) __attribute__((always_inline)) {
    return join(load<Four<R>>(from + offset[g]), load<Four<R>>(from + offset[g + 1]), std::make_index_sequence<8>{});
  };
  if constexpr (group<R> == 4) {
    return join(two(0), two(2), std::make_index_sequence<16>{});
  } else {
    return two(0);
  }
}

// Three channels of each position closed up, and behind them some that do not count.
template <class V, std::size_t... k>
KERAMORPH_INLINE V close_up(V of_four, std::index_sequence<k...>) {
  constexpr int used = static_cast<int>(sizeof...(k)) / 4 * 3;
  return __builtin_shufflevector(of_four, of_four, (int(k) < used ? int(k) / 3 * 4 + int(k) % 3 : 3)...);
}

template <class R>
KERAMORPH_INLINE R add_up(Four<R> v) {
  return (v[0] + v[1]) + (v[2] + v[3]);
}

// Cubic, one position and one channel: fetch(rows) reads the four taps of the last axis, `rows` the offset of the others.
template <int D, bool derivative, class R, class Fetch>
KERAMORPH_INLINE R blend_cubic(const R (&fraction)[D], const int (&offset)[D][4], const Fetch& fetch, R (&slope)[D]) {
  R weight[D][4], change[D][4];
  for (int d = 0; d < D; ++d) weigh_cubic(fraction[d], weight[d], change[d]);
  const Four<R> last = load<Four<R>>(weight[D - 1]), last_change = load<Four<R>>(change[D - 1]);
  Four<R> plain{}, first{}, second{};  // value, and the derivative to each axis but the last
  if constexpr (D == 1) {
    plain = fetch(0);
  } else if constexpr (D == 2) {
    for (int i = 0; i < 4; ++i) {
      const Four<R> row = fetch(offset[0][i]);
      plain += weight[0][i] * row;
      if constexpr (derivative) first += change[0][i] * row;
    }
  } else {
    for (int i = 0; i < 4; ++i) {
      Four<R> inner{}, inner_change{};
      for (int j = 0; j < 4; ++j) {
        const Four<R> row = fetch(offset[0][i] + offset[1][j]);
        inner += weight[1][j] * row;
        if constexpr (derivative) inner_change += change[1][j] * row;
      }
      plain += weight[0][i] * inner;
      if constexpr (derivative) {
        first += change[0][i] * inner;
        second += weight[0][i] * inner_change;
      }
    }
  }
  if constexpr (derivative) {
    slope[D - 1] = add_up<R>(plain * last_change);
    if constexpr (D > 1) slope[0] = add_up<R>(first * last);
    if constexpr (D > 2) slope[1] = add_up<R>(second * last);
  }
  return add_up<R>(plain * last);
}

// Two neighbours of 16 bits at the offset of each lane, the first one in the lower half.
template <class T>
KERAMORPH_INLINE Unsigned load_words(const T* image, const std::int32_t* offset) {
#if defined(__AVX512F__)
  return (Unsigned)_mm512_i32gather_epi32(load<__m512i>(offset), image, 2);
#elif defined(__AVX2__)
  return (Unsigned)_mm256_i32gather_epi32(reinterpret_cast<const int*>(image), load<__m256i>(offset), 2);
#else
  Unsigned words;
  for (int l = 0; l < lanes; ++l) words[l] = image[offset[l]].bits | std::uint32_t{image[offset[l] + 1].bits} << 16;
  return words;
#endif
}

// Both taps of the last axis at the offsets of all lanes, next to each other in memory.
template <class T, class R>
KERAMORPH_INLINE void load_pairs(const T* image, const std::int32_t* offset, Vector<R>& a, Vector<R>& b) {
  if constexpr (sizeof(T) == 2) {
    const Unsigned pair = load_words(image, offset);
    a = lift_bits<T>(pair & 0xffffu);
    b = lift_bits<T>(pair >> 16);
  } else {
    for (int l = 0; l < lanes; ++l) {
      a[l] = lift(image[offset[l]]);
      b[l] = lift(image[offset[l] + 1]);
    }
  }
}

#if defined(__AVX512F__)
// Eight pairs by one gather of 64 bits each.
template <>
KERAMORPH_INLINE void load_pairs<float, float>(const float* image, const std::int32_t* offset, Vector<float>& a,
                                               Vector<float>& b) {
  const auto gather_eight = [&](const std::int32_t* from) __attribute__((always_inline)) {
    return _mm512_castpd_ps(_mm512_i32gather_pd(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), image, 4));
  };
  const __m512 near = gather_eight(offset), far = gather_eight(offset + 8);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  a = (Vector<float>)_mm512_permutex2var_ps(near, even, far);
  b = (Vector<float>)_mm512_permutex2var_ps(near, _mm512_add_epi32(even, _mm512_set1_epi32(1)), far);
}
#elif defined(__AVX2__)
// Eight pairs by eight loads of 64 bits: the gathers of processors without AVX-512 take longer.
template <>
KERAMORPH_INLINE void load_pairs<float, float>(const float* image, const std::int32_t* offset, Vector<float>& a,
                                               Vector<float>& b) {
  const auto two = [&](int l) __attribute__((always_inline)) {
    double first, second;
    std::memcpy(&first, image + offset[l], 8);
    std::memcpy(&second, image + offset[l + 1], 8);
    return _mm_castpd_ps(_mm_set_pd(second, first));
  };
  const __m256 even = _mm256_insertf128_ps(_mm256_castps128_ps256(two(0)), two(4), 1);
  const __m256 odd = _mm256_insertf128_ps(_mm256_castps128_ps256(two(2)), two(6), 1);
  a = (Vector<float>)_mm256_shuffle_ps(even, odd, 0x88);
  b = (Vector<float>)_mm256_shuffle_ps(even, odd, 0xdd);
}
#endif

// One tap of all lanes, anywhere.
template <class T, class R>
KERAMORPH_INLINE Vector<R> gather(const T* image, Index offset) {
  Vector<R> value;
  for (int l = 0; l < lanes; ++l) value[l] = lift(image[offset[l]]);
  return value;
}

// Four neighbours in memory.
template <class T, class R>
KERAMORPH_INLINE Four<R> load_four(const T* from) {
  if constexpr (std::is_same_v<T, R>) {
    return load<Four<R>>(from);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    typedef std::uint16_t Narrow __attribute__((vector_size(8)));
    typedef std::uint32_t Wide __attribute__((vector_size(16)));
    return (Four<float>)(__builtin_convertvector(load<Narrow>(from), Wide) << 16);
  } else {
#if defined(__F16C__)
    return (Four<float>)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
    return Four<R>{lift(from[0]), lift(from[1]), lift(from[2]), lift(from[3])};
#endif
  }
}

// Up to four channels from `from`; reads no more than `count` elements where fewer are left.
template <class T, class R>
KERAMORPH_INLINE Four<R> load_channels(const T* from, int count) {
  if (count >= 4) return load_four<T, R>(from);
  Four<R> value{};
  for (int c = 0; c < count; ++c) value[c] = lift(from[c]);
  return value;
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
