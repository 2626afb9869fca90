// Reads an image at blocks of positions: what forward sampling and both derivatives are made of.
#pragma once

#include "blend.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

// T: how the image is stored, R: type of the arithmetic, D: number of axes, order: 1 or 3.
template <class T, class R, int D, int order>
class Sampler {
 public:
  using V = Vector<R>;

  Sampler(const Sampling& call, const T* image)
      : lattice_(call), image_(image), fill_(static_cast<R>(call.rule.fill)), elements_(lattice_.elements()) {}

  int channels() const { return lattice_.channels; }
  const Lattice<D>& lattice() const { return lattice_; }

  // Values of an image with one channel, and the derivative to each axis if asked for.
  template <bool derivative>
  KERAMORPH_INLINE V read(std::int64_t batch, const Position<R, D>& position, V (&slope)[D]) const {
    const T* image = image_ + batch * elements_;
    if constexpr (order == 1) {
      if (!any(find_outside(position, lattice_, 0, 1))) return read_inside<derivative>(image, position, slope);
      if (lattice_.boundary == Boundary::nearest && lattice_.size[D - 1] > 1) {
        return read_beyond<derivative>(image, position, slope);
      }
    }
    return read_folded<derivative>(image, position, slope);
  }

  // Four channels, or as many as there are, from channel `first` on, at one lane of a block of taps.
  template <bool derivative>
  __attribute__((noinline)) Four<R> read_channels(std::int64_t batch, const Position<R, D>& position,
                                                  const Taps<D, order>& taps, int lane, int first,
                                                  Four<R> (&slope)[D]) const {
    const T* image = image_ + batch * elements_ + first;
    R fraction[D];
    int offset[D][order + 1];
    for (int d = 0; d < D; ++d) {
      fraction[d] = position.fraction[d][lane];
      for (int k = 0; k <= order; ++k) offset[d][k] = taps.offset[d][k][lane];
    }
    Four<R> value{};
    if constexpr (order == 1) {
      const auto fetch = [&](int row, Four<R>& a, Four<R>& b) __attribute__((always_inline)) {
        int place = 0;
        for (int d = 0; d < D - 1; ++d) place += offset[d][(row >> (D - 2 - d)) & 1];
        const int near = place + offset[D - 1][0], far = place + offset[D - 1][1];
        a = load_channels<T, R>(image + near, static_cast<int>(elements_ - first - near));
        b = load_channels<T, R>(image + far, static_cast<int>(elements_ - first - far));
      };
      value = blend_linear<D, derivative>(fraction, fetch, slope);
    } else {
      const int here = lattice_.channels - first < 4 ? lattice_.channels - first : 4;
      for (int c = 0; c < here; ++c) {
        R change[D];
        value[c] = blend_one<derivative>(image + c, fraction, offset, change);
        for (int d = 0; derivative && d < D; ++d) slope[d][c] = change[d];
      }
    }
    if (lattice_.boundary == Boundary::constant && !taps.inside[lane]) {
      value = Four<R>{} + fill_;
      for (int d = 0; derivative && d < D; ++d) slope[d] = Four<R>{};
    }
    return value;
  }

  // Offsets of the first taps if all lanes' taps lie inside and four channels can be read at each without leaving the
  // images; `false` if not.
  KERAMORPH_INLINE bool find_inside(const Position<R, D>& position, std::int32_t (&offset)[lanes]) const {
    if constexpr (order != 1) return false;
    Unsigned first{};  // wraps round where a lane is far outside, and then it does not count
    int reach = (lattice_.channels - 1) / 4 * 4 + 4;
    for (int d = 0; d < D; ++d) {
      first += (Unsigned)position.index[d] * static_cast<std::uint32_t>(lattice_.stride[d]);
      reach += lattice_.stride[d];
    }
    store(offset, first);
    return !any(find_outside(position, lattice_, 0, 1) | ((Index)first > static_cast<int>(elements_) - reach));
  }

  // The same as `read_channels` where `find_inside` holds: `offset` is that of the first tap.
  template <bool derivative>
  KERAMORPH_INLINE Four<R> read_channels_inside(std::int64_t batch, const R (&fraction)[D], std::int64_t offset,
                                                Four<R> (&slope)[D]) const {
    const T* image = image_ + batch * elements_ + offset;
    const auto fetch = [&](int row, Four<R>& a, Four<R>& b) __attribute__((always_inline)) {
      std::int64_t place = 0;
      for (int d = 0; d < D - 1; ++d) place += ((row >> (D - 2 - d)) & 1) * std::int64_t{lattice_.stride[d]};
      a = load_four<T, R>(image + place);
      b = load_four<T, R>(image + place + lattice_.channels);
    };
    return blend_linear<D, derivative>(fraction, fetch, slope);
  }

  // The values of a group of positions: `fraction` of each axis and `offset` start at its first one.
  KERAMORPH_INLINE Group<R> read_group_inside(std::int64_t batch, const R* const (&fraction)[D],
                                              const std::int32_t* offset) const {
    const T* image = image_ + batch * elements_;
    Group<R> each[D], unused[D];
    for (int d = 0; d < D; ++d) each[d] = repeat(fraction[d], std::make_index_sequence<4 * group<R>>{});
    const auto fetch = [&](int row, Group<R>& a, Group<R>& b) __attribute__((always_inline)) {
      std::int64_t place = 0;
      for (int d = 0; d < D - 1; ++d) place += ((row >> (D - 2 - d)) & 1) * std::int64_t{lattice_.stride[d]};
      a = load_group(image + place, offset);
      b = load_group(image + place + lattice_.channels, offset);
    };
    return blend_linear<D, false>(each, fetch, unused);
  }

  // Ask for what the neighbouring row of positions will read one plane further on: this hides most of the latency.
  KERAMORPH_INLINE void fetch_ahead(std::int64_t batch, const Position<R, D>& position) const {
    if constexpr (order == 1 && D > 1) {
      std::int64_t place = 2 * lattice_.stride[0];
      if constexpr (D > 2) place += lattice_.stride[1];
      for (int d = 0; d < D; ++d) place += std::int64_t{position.index[d][0]} * lattice_.stride[d];
      const auto address = reinterpret_cast<std::uintptr_t>(image_ + batch * elements_) + place * sizeof(T);
      __builtin_prefetch(reinterpret_cast<const void*>(address));
      if (lattice_.channels > 1) __builtin_prefetch(reinterpret_cast<const void*>(address + 64));
    }
  }

 private:
  template <bool derivative>
  KERAMORPH_INLINE V read_inside(const T* image, const Position<R, D>& position, V (&slope)[D]) const {
    Index first{};
    for (int d = 0; d < D; ++d) first += position.index[d] * lattice_.stride[d];
    alignas(64) std::int32_t offset[lanes];
    store(offset, first);
    const auto fetch = [&](int row, V& a, V& b) __attribute__((always_inline)) {
      std::int64_t place = 0;
      for (int d = 0; d < D - 1; ++d) place += ((row >> (D - 2 - d)) & 1) * std::int64_t{lattice_.stride[d]};
      load_pairs<T, R>(image + place, offset, a, b);
    };
    return blend_linear<D, derivative>(position.fraction, fetch, slope);
  }

  // Where the edge extends, pairs along the last axis are read still, one voxel further in where they would lie across
  // the edge, and the voxel on the edge then stands for both.
  template <bool derivative>
  __attribute__((noinline)) V read_beyond(const T* image, const Position<R, D>& position, V (&slope)[D]) const {
    const int last = lattice_.size[D - 1] - 1;
    const Index index = position.index[D - 1];
    const auto before = __builtin_convertvector(index < 0, decltype(position.fraction[0] < 0));
    const auto after = __builtin_convertvector(index >= last, decltype(position.fraction[0] < 0));
    const Index pair = fold(index, last, Boundary::nearest) * lattice_.stride[D - 1];
    const auto fetch = [&](int row, V& a, V& b) __attribute__((always_inline)) {
      Index place = pair;
      for (int d = 0; d < D - 1; ++d) {
        const int tap = (row >> (D - 2 - d)) & 1;
        place += fold(position.index[d] + tap, lattice_.size[d], Boundary::nearest) * lattice_.stride[d];
      }
      alignas(64) std::int32_t offset[lanes];
      store(offset, place);
      load_pairs<T, R>(image, offset, a, b);
      const V first = a;
      a = after ? b : a;
      b = before ? first : b;
    };
    return blend_linear<D, derivative>(position.fraction, fetch, slope);
  }

  template <bool derivative>
  __attribute__((noinline)) V read_folded(const T* image, const Position<R, D>& position, V (&slope)[D]) const {
    Taps<D, order> taps;
    find_taps<R, D, order>(position, lattice_, taps);
    V value;
    if constexpr (order == 1) {
      const auto fetch = [&](int row, V& a, V& b) __attribute__((always_inline)) {
        Index place{};
        for (int d = 0; d < D - 1; ++d) place += taps.offset[d][(row >> (D - 2 - d)) & 1];
        a = gather<T, R>(image, place + taps.offset[D - 1][0]);
        b = gather<T, R>(image, place + taps.offset[D - 1][1]);
      };
      value = blend_linear<D, derivative>(position.fraction, fetch, slope);
    } else {
      for (int l = 0; l < lanes; ++l) {
        R fraction[D], change[D];
        int offset[D][4];
        for (int d = 0; d < D; ++d) {
          fraction[d] = position.fraction[d][l];
          for (int k = 0; k < 4; ++k) offset[d][k] = taps.offset[d][k][l];
        }
        value[l] = blend_one<derivative>(image, fraction, offset, change);
        for (int d = 0; derivative && d < D; ++d) slope[d][l] = change[d];
      }
    }
    if (lattice_.boundary == Boundary::constant) {
      const auto inside = __builtin_convertvector(taps.inside, decltype(value == value));
      value = inside ? value : broadcast(fill_);
      for (int d = 0; derivative && d < D; ++d) slope[d] = inside ? slope[d] : V{};
    }
    return value;
  }

  template <bool derivative>
  R blend_one(const T* image, const R (&fraction)[D], const int (&offset)[D][4], R (&change)[D]) const {
    const int(&last)[4] = offset[D - 1];
    if (last[3] - last[0] == 3 && last[1] - last[0] == 1 && last[2] - last[0] == 2) {
      const T* start = image + last[0];
      const auto fetch = [&](int place) __attribute__((always_inline)) { return load_four<T, R>(start + place); };
      return blend_cubic<D, derivative, R>(fraction, offset, fetch, change);
    }
    const auto fetch = [&](int place) __attribute__((always_inline)) {
      return Four<R>{lift(image[place + last[0]]), lift(image[place + last[1]]), lift(image[place + last[2]]),
                     lift(image[place + last[3]])};
    };
    return blend_cubic<D, derivative, R>(fraction, offset, fetch, change);
  }

  Lattice<D> lattice_;
  const T* image_;
  R fill_;
  std::int64_t elements_;
};

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
