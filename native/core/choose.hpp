// From what a call says at run time to the template that was compiled for it.
#pragma once

#include "storage.hpp"
#include "types.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

template <class T>
struct Kind {
  using type = T;
};

template <class Then>
inline void choose_ndim(int ndim, const Then& then) {
  switch (ndim) {
    case 1: return then(std::integral_constant<int, 1>{});
    case 2: return then(std::integral_constant<int, 2>{});
    default: return then(std::integral_constant<int, 3>{});
  }
}

// Call then(stored type, arithmetic type, ndim, order) for order 1 and 3; half-precision images are of order 1.
template <class Then>
inline void choose(const Sampling& call, const Then& then) {
  const std::integral_constant<int, 1> linear;
  const std::integral_constant<int, 3> cubic;
  choose_ndim(call.ndim, [&](auto ndim) {
    switch (call.image_type) {
      case Type::float16: return then(Kind<Float16>{}, Kind<float>{}, ndim, linear);
      case Type::bfloat16: return then(Kind<BFloat16>{}, Kind<float>{}, ndim, linear);
      case Type::float64:
        if (call.rule.order == 3) return then(Kind<double>{}, Kind<double>{}, ndim, cubic);
        return then(Kind<double>{}, Kind<double>{}, ndim, linear);
      default:
        if (call.rule.order == 3) return then(Kind<float>{}, Kind<float>{}, ndim, cubic);
        return then(Kind<float>{}, Kind<float>{}, ndim, linear);
    }
  });
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
