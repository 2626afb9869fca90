// How image values are stored, and how they are lifted to the type of the arithmetic.
#pragma once

#include "vectors.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

KERAMORPH_INLINE float lift(float value) { return value; }
KERAMORPH_INLINE double lift(double value) { return value; }

KERAMORPH_INLINE float lift(BFloat16 value) {
  const std::uint32_t wide = std::uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &wide, 4);
  return result;
}

KERAMORPH_INLINE float lift(Float16 value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#else
  // Exponent and fraction are moved into place, and the difference of the two exponents' biases is multiplied in, which
  // also lifts denormal numbers.
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  std::uint32_t wide = magnitude << 13;
  float result;
  std::memcpy(&result, &wide, 4);
  result *= 0x1p112f;
  std::memcpy(&wide, &result, 4);
  if (magnitude >= 0x7c00u) wide |= 0x7f800000u;
  wide |= (value.bits & 0x8000u) << 16;
  std::memcpy(&result, &wide, 4);
  return result;
#endif
}

template <class T>
struct Lower;  // rounds to the stored type, to nearest even

template <>
struct Lower<float> {
  static float from(float value) { return value; }
};
template <>
struct Lower<double> {
  static double from(double value) { return value; }
};
template <>
struct Lower<BFloat16> {
  static BFloat16 from(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value != value) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
    return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
};
template <>
struct Lower<Float16> {
  static Float16 from(float value) {
#if defined(__F16C__)
    return {static_cast<std::uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))};
#else
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
    if (bits >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
    if (bits < 0x38800000u) {
      // Below the smallest normal number: adding 0.5 lets the float unit round at the last denormal bit.
      float tiny;
      std::memcpy(&tiny, &bits, 4);
      tiny += 0.5f;
      std::memcpy(&bits, &tiny, 4);
      return {static_cast<std::uint16_t>(sign | (bits - 0x3f000000u))};
    }
    bits += 0xfffu + ((bits >> 13) & 1u);
    return {static_cast<std::uint16_t>(sign | ((bits - 0x38000000u) >> 13))};
#endif
  }
};

// The 16-bit types, a vector at a time; each value has its bits in the lower half of a lane.
typedef std::uint16_t Halves __attribute__((vector_size(lanes * 2)));

template <class T>
KERAMORPH_INLINE Vector<float> lift_bits(Unsigned bits) {
  if constexpr (std::is_same_v<T, BFloat16>) return (Vector<float>)(bits << 16);
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_cvtph_ps((__m256i)__builtin_convertvector(bits, Halves));
#elif defined(__AVX2__)
  return (Vector<float>)_mm256_cvtph_ps((__m128i)__builtin_convertvector(bits, Halves));
#else
  Vector<float> value;
  for (int l = 0; l < lanes; ++l) value[l] = lift(Float16{static_cast<std::uint16_t>(bits[l])});
  return value;
#endif
}

template <class T>
KERAMORPH_INLINE Halves lower_to_bits(Vector<float> values) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const Unsigned bits = (Unsigned)values, rounded = bits + 0x7fffu + ((bits >> 16) & 1u), quiet = bits | 0x400000u;
    return __builtin_convertvector((values == values ? rounded : quiet) >> 16, Halves);
  }
#if defined(__AVX512F__)
  return (Halves)_mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__AVX2__)
  return (Halves)_mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT);
#else
  Halves bits;
  for (int l = 0; l < lanes; ++l) bits[l] = Lower<Float16>::from(values[l]).bits;
  return bits;
#endif
}

// Neighbours in memory, as many as there are lanes.
template <class T, class R>
KERAMORPH_INLINE Vector<R> load_lifted(const T* from) {
  if constexpr (std::is_same_v<T, R>) {
    return load<Vector<R>>(from);
  } else {
    return lift_bits<T>(__builtin_convertvector(load<Halves>(from), Unsigned));
  }
}

template <class T, class R>
KERAMORPH_INLINE void store_lowered(T* to, Vector<R> values) {
  if constexpr (std::is_same_v<T, R>) {
    store(to, values);
  } else {
    store(to, lower_to_bits<T>(values));
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
