// Picks the instruction set, once, and forwards every kernel to its copy for that.

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.hpp"

#if defined(KERAMORPH_X86) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace keramorph {

namespace baseline {
#include "functions.inc"
}
#if defined(KERAMORPH_X86)
namespace avx2 {
#include "functions.inc"
}
namespace avx512 {
#include "functions.inc"
}
#endif

namespace {

constexpr const char* names[] = {"baseline", "avx2", "avx512"};

Instructions find_fastest() {
#if !defined(KERAMORPH_X86)
  return Instructions::baseline;
#elif defined(_MSC_VER)
  // Whether the processor has it, and whether the system keeps the registers across a switch of threads.
  int one[4], seven[4];
  __cpuidex(one, 1, 0);
  __cpuidex(seven, 7, 0);
  const bool saved = (one[2] & (1 << 27)) != 0;
  const unsigned long long registers = saved ? _xgetbv(0) : 0;
  const bool fused = (one[2] & (1 << 12)) && (one[2] & (1 << 29)) && (seven[1] & (1 << 5));
  if (!fused || (registers & 0x6) != 0x6) return Instructions::baseline;
  const unsigned wide = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
  const bool has_wide = (static_cast<unsigned>(seven[1]) & wide) == wide && (registers & 0xe6) == 0xe6;
  return has_wide ? Instructions::avx512 : Instructions::avx2;
#else
  __builtin_cpu_init();
  // Every processor with AVX2 converts half floats too; not every compiler knows that feature's name.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Instructions::baseline;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return wide ? Instructions::avx512 : Instructions::avx2;
#endif
}

Instructions choose() {
  const Instructions fastest = find_fastest();
  const char* wanted = std::getenv("KERAMORPH_INSTRUCTIONS");
  if (wanted == nullptr || *wanted == '\0') return fastest;
  for (int k = 0; k <= static_cast<int>(fastest); ++k) {
    if (std::strcmp(wanted, names[k]) == 0) return static_cast<Instructions>(k);
  }
  throw std::invalid_argument(std::string("The environment variable KERAMORPH_INSTRUCTIONS must name an instruction "
                                          "set that this machine has: baseline, or at most ") +
                              name_of(fastest) + ". Received: KERAMORPH_INSTRUCTIONS=" + wanted +
                              ". Unset it to get the fastest.");
}

}  // namespace

Instructions instructions() {
  static const Instructions chosen = choose();
  return chosen;
}

const char* name_of(Instructions instructions) { return names[static_cast<int>(instructions)]; }

#if defined(KERAMORPH_X86)
#define FORWARD(call)                                     \
  switch (instructions()) {                               \
    case Instructions::avx512: return avx512::call;       \
    case Instructions::avx2: return avx2::call;           \
    default: return baseline::call;                       \
  }
#else
#define FORWARD(call) return baseline::call
#endif

void sample(const Sampling& call, const void* image, const void* coordinates, void* values, bool plus_coordinates) {
  FORWARD(sample(call, image, coordinates, values, plus_coordinates));
}

void sample_with_derivative(const Sampling& call, const void* image, const void* coordinates, void* values,
                            void* derivative) {
  FORWARD(sample_with_derivative(call, image, coordinates, values, derivative));
}

void pull_back(const Sampling& call, const void* image, const void* coordinates, const void* cotangent,
               void* gradient) {
  FORWARD(pull_back(call, image, coordinates, cotangent, gradient));
}

void splat(const Sampling& call, const void* values, const void* coordinates, void* image) {
  FORWARD(splat(call, values, coordinates, image));
}

void prefilter(const Volume& volume, Boundary boundary, const void* image, void* coefficients) {
  FORWARD(prefilter(volume, boundary, image, coefficients));
}

void prefilter_adjoint(const Volume& volume, Boundary boundary, const void* coefficients, void* image) {
  FORWARD(prefilter_adjoint(volume, boundary, coefficients, image));
}

void window_sum(const Volume& volume, const std::int64_t* size, const void* input, void* output) {
  FORWARD(window_sum(volume, size, input, output));
}

void gaussian(const Volume& volume, const double* sigma, const void* input, void* output) {
  FORWARD(gaussian(volume, sigma, input, output));
}

void lncc(const Volume& volume, const std::int64_t* size, int form, double floor, double least, const void* fixed,
          const void* moved, const void* weight, double* similarity, void* derivative, void* curvature) {
  FORWARD(lncc(volume, size, form, floor, least, fixed, moved, weight, similarity, derivative, curvature));
}

void compare(const Volume& volume, const Comparison& comparison, const void* fixed, const void* moved, void* value,
             void* derivative) {
  FORWARD(compare(volume, comparison, fixed, moved, value, derivative));
}

void locate(const Volume& volume, const double* matrix, const std::int64_t* shape, const void* displacement,
            void* positions, void* inside) {
  FORWARD(locate(volume, matrix, shape, displacement, positions, inside));
}

void push(const Volume& volume, const double* matrix, const void* slope, const void* derivative, const void* curvature,
          void* pushed) {
  FORWARD(push(volume, matrix, slope, derivative, curvature, pushed));
}

void limit(const Volume& volume, const double* matrix, double damping, double most, const void* pushed, void* update) {
  FORWARD(limit(volume, matrix, damping, most, pushed, update));
}

void add_blocks(const Volume& volume, const Blocks& call) { FORWARD(add_blocks(volume, call)); }

}  // namespace keramorph
