// The adjoint of sampling to the image, without atomic additions and without private copies of the image.
//
// The image is cut into slabs along its first axis, one per thread, and whoever owns a slab walks over the rows of
// positions that reach it and adds what falls inside. Each voxel gets its contributions in the order of the positions,
// however many slabs there are: the same bits for any number of threads. What it costs is that rows near a border are
// walked over twice.
#include "choose.hpp"
#include "blend.hpp"
#include "scratch.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

#include "functions.inc"

namespace {

// First and last offset along the first axis that a row adds to.
struct Span {
  int first, last;
};

template <class T, class R, int D, int order>
class Splatter {
 public:
  using V = Vector<R>;
  typedef R Pair __attribute__((vector_size(2 * sizeof(R))));
  static constexpr int taps_per_axis = order + 1, pairs = 1 << (D - 1);

  Splatter(const Sampling& call, const T* values, const R* coordinates)
      : lattice_(call), rows_(call), values_(values), coordinates_(coordinates), channels_(call.channels) {}

  const Rows<D>& rows() const { return rows_; }

  // A span may be too long, where taps turn back at the edge, but never too short.
  Span measure(std::int64_t number) const {
    const Row<D> row = rows_.at(number);
    Index least = Index{} + (1 << 30), most = -least;
    rows_.template walk<R>(row, coordinates_, [&](const Position<R, D>& position, std::int64_t, int) {
      least = smaller(least, position.index[0]);
      most = larger(most, position.index[0]);
    });
    int first = least[0], last = most[0];
    for (int l = 1; l < lanes; ++l) {
      if (least[l] < first) first = least[l];
      if (most[l] > last) last = most[l];
    }
    const bool extends = lattice_.boundary == Boundary::nearest;
    const int shift = order < 3 ? 0 : extends ? edge - 1 : -1, end = lattice_.size[0] - 1;
    first += shift;
    last += shift + (order < 3 ? 1 : 3);
    if (first < 0 || last > end) {
      const bool stays = extends || (lattice_.boundary == Boundary::constant && order < 3);
      const auto clip = [end](int plane) { return plane < 0 ? 0 : plane > end ? end : plane; };
      first = stays ? clip(first) : 0;
      last = stays ? clip(last) : end;
    }
    return {first * lattice_.stride[0], last * lattice_.stride[0]};
  }

  // Add a row's values to the part of one image whose offsets along the first axis are in low .. high - 1.
  void add(std::int64_t number, int low, int high, R* image) const {
    const Row<D> row = rows_.at(number);
    rows_.template walk<R>(row, coordinates_,
                           [&](const Position<R, D>& position, std::int64_t first, int count)
                               __attribute__((always_inline)) {
      if constexpr (order == 1) {
        if (channels_ == 1 && (count < lanes || any(find_outside(position, lattice_, 0, 1)))) {
          return add_beyond(position, first, count, low, high, image);
        }
        if (channels_ == 1) {
          const Index near = position.index[0] * lattice_.stride[0];
          const Index crosses = (near < low) | (near + lattice_.stride[0] >= high);
          if (!any(crosses)) return add_inside<false>(position, first, low, high, image);
          if (any((near + lattice_.stride[0] >= low) & (near < high))) {
            add_inside<true>(position, first, low, high, image);
          }
          return;
        }
      }
      add_folded(position, first, count, low, high, image);
    });
  }

 private:
  // Ask for what the neighbouring row of positions will add to one plane further on.
  KERAMORPH_INLINE void fetch_ahead(const Position<R, D>& position, const R* image) const {
    if constexpr (D > 1) {
      std::int64_t place = 2 * lattice_.stride[0];
      if constexpr (D > 2) place += lattice_.stride[1];
      for (int d = 0; d < D; ++d) place += std::int64_t{position.index[d][0]} * lattice_.stride[d];
      const auto address = reinterpret_cast<std::uintptr_t>(image) + place * sizeof(R);
      __builtin_prefetch(reinterpret_cast<const void*>(address), 1);
    }
  }

  // One channel: what each lane adds at each of its corners, for all lanes at once. The two corners of a pair are
  // neighbours along the last axis; axes count from the highest bit of a pair's number.
  KERAMORPH_INLINE void share_out(const Position<R, D>& position, std::int64_t first, int count,
                                  R (&part)[pairs][2 * lanes]) const {
    V share[2 * pairs];
    V value{};
    if (count == lanes) {
      value = load_lifted<T, R>(values_ + first);
    } else {
      for (int l = 0; l < count; ++l) value[l] = lift(values_[first + l]);
    }
    share[0] = value;
    // Split in two along one axis after the other.
    for (int d = 0, parts = 1; d < D; ++d, parts *= 2) {
      for (int part = parts - 1; part >= 0; --part) {
        const V far = share[part] * position.fraction[d];
        share[2 * part + 1] = far;
        share[2 * part] = share[part] - far;
      }
    }
    for (int pair = 0; pair < pairs; ++pair) store_components<2>(part[pair], {share[2 * pair], share[2 * pair + 1]});
  }

  // One channel, all taps inside the image. Blocks that cross the border of a slab are weighed in the same way, so that
  // no sum depends on where the border is.
  template <bool crossing>
  KERAMORPH_INLINE void add_inside(const Position<R, D>& position, std::int64_t first, int low, int high,
                                   R* image) const {
    alignas(64) R part[pairs][2 * lanes];
    fetch_ahead(position, image);
    share_out(position, first, lanes, part);
    Index place{};
    for (int d = 0; d < D; ++d) place += position.index[d] * lattice_.stride[d];
    alignas(64) std::int32_t offset[lanes];
    store(offset, place);
    keep_in_memory(offset);
    std::int64_t step[pairs];
    for (int pair = 0; pair < pairs; ++pair) {
      step[pair] = 0;
      for (int d = 0; d < D - 1; ++d) step[pair] += ((pair >> (D - 2 - d)) & 1) * std::int64_t{lattice_.stride[d]};
    }
    // Every other lane, then those between: a lane's pairs often lie across the next one's, and to read what was written
    // only just before, but not as the same pair, keeps a processor waiting.
    for (int first_lane = 0; first_lane < 2; ++first_lane) {
      for (int l = first_lane; l < lanes; l += 2) {
        for (int pair = 0; pair < pairs; ++pair) {
          R* to = image + offset[l] + step[pair];
          const R* shares = part[pair] + 2 * l;
          if constexpr (crossing) {
            for (int end = 0; end < 2; ++end) {
              if (to + end >= image + low && to + end < image + high) to[end] += shares[end];
            }
          } else {
            store(to, load<Pair>(to) + load<Pair>(shares));
          }
        }
      }
    }
  }

  // One channel, taps wherever the boundary puts them.
  __attribute__((noinline)) void add_beyond(const Position<R, D>& position, std::int64_t first, int count, int low,
                                            int high, R* image) const {
    alignas(64) R part[pairs][2 * lanes];
    share_out(position, first, count, part);
    Taps<D, order> taps;
    find_taps<R, D, order>(position, lattice_, taps);
    alignas(64) std::int32_t offset[2 * pairs][lanes];
    for (int corner = 0; corner < 2 * pairs; ++corner) {
      Index place{};
      for (int d = 0; d < D; ++d) place += taps.offset[d][(corner >> (D - 1 - d)) & 1];
      store(offset[corner], place);
    }
    for (int l = 0; l < count; ++l) {
      if (!taps.inside[l]) continue;
      for (int corner = 0; corner < 2 * pairs; ++corner) {
        const int at = offset[corner][l];
        if (at >= low && at < high) image[at] += part[corner / 2][2 * l + corner % 2];
      }
    }
  }

  __attribute__((noinline)) void add_folded(const Position<R, D>& position, std::int64_t first, int count, int low,
                                            int high, R* image) const {
    Taps<D, order> taps;
    find_taps<R, D, order>(position, lattice_, taps);
    for (int l = 0; l < count; ++l) {
      if (!taps.inside[l]) continue;
      R weight[D][4];
      int offset[D][taps_per_axis];
      for (int d = 0; d < D; ++d) {
        weigh(position.fraction[d][l], weight[d]);
        for (int k = 0; k < taps_per_axis; ++k) offset[d][k] = taps.offset[d][k][l];
      }
      const T* values = values_ + (first + l) * channels_;
      for (int k = 0; k < taps_per_axis; ++k) {
        const int plane = offset[0][k];
        if (plane >= low && plane < high) add_taps<1>(weight, offset, weight[0][k], image + plane, values);
      }
    }
  }

  static void weigh(R fraction, R (&weight)[4]) {
    if constexpr (order == 0) {
      weight[0] = 1;
    } else if constexpr (order == 1) {
      weight[0] = 1 - fraction;
      weight[1] = fraction;
    } else {
      R unused[4];
      weigh_cubic(fraction, weight, unused);
    }
  }

  template <int axis>
  void add_taps(const R (&weight)[D][4], const int (&offset)[D][taps_per_axis], R share, R* to,
                const T* values) const {
    if constexpr (axis == D) {
      for (std::int64_t c = 0; c < channels_; ++c) to[c] += share * lift(values[c]);
    } else {
      for (int k = 0; k < taps_per_axis; ++k) {
        add_taps<axis + 1>(weight, offset, share * weight[axis][k], to + offset[axis][k], values);
      }
    }
  }

  Lattice<D> lattice_;
  Rows<D> rows_;
  const T* values_;
  const R* coordinates_;
  std::int64_t channels_;
};

template <class T, class R, int D, int order>
void splat_onto(const Sampling& call, const void* values, const void* coordinates, void* image) {
  const Splatter<T, R, D, order> splatter(call, static_cast<const T*>(values), static_cast<const R*>(coordinates));
  const Rows<D>& rows = splatter.rows();
  const Lattice<D> lattice(call);
  const std::int64_t elements = lattice.elements(), planes = lattice.size[0], plane = lattice.stride[0];
  constexpr bool direct = std::is_same_v<T, R>;
  const Buffer wide(direct ? 0 : elements * call.batch * static_cast<std::int64_t>(sizeof(R)));
  R* sums = direct ? static_cast<R*>(image) : wide.as<R>();

  std::int64_t slabs = (threads() + call.batch - 1) / call.batch;
  slabs = slabs < planes ? slabs : planes;
  const Buffer memory(slabs > 1 ? rows.count() * static_cast<std::int64_t>(sizeof(Span)) : 0);
  Span* spans = memory.as<Span>();
  if (slabs > 1) {
    parallel(rows.count(), rows.grain(), [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t number = first; number < last; ++number) spans[number] = splatter.measure(number);
    });
  }
  parallel(call.batch * slabs, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t part = first; part < last; ++part) {
      const std::int64_t batch = part / slabs, slab = part % slabs;
      const std::int64_t low = planes * slab / slabs * plane, high = planes * (slab + 1) / slabs * plane;
      R* to = sums + batch * elements;
      std::memset(to + low, 0, static_cast<std::size_t>(high - low) * sizeof(R));
      for (std::int64_t number = batch * rows.per_batch(); number < (batch + 1) * rows.per_batch(); ++number) {
        if (slabs > 1 && (spans[number].last < low || spans[number].first >= high)) continue;
        splatter.add(number, static_cast<int>(low), static_cast<int>(high), to);
      }
      if constexpr (!direct) {
        T* narrow = static_cast<T*>(image) + batch * elements;
        for (std::int64_t i = low; i < high; ++i) narrow[i] = Lower<T>::from(to[i]);
      }
    }
  });
}

}  // namespace

void splat(const Sampling& call, const void* values, const void* coordinates, void* image) {
  choose(call, [&](auto stored, auto real, auto ndim, auto order) {
    using T = typename decltype(stored)::type;
    using R = typename decltype(real)::type;
    if (call.rule.order == 0) {
      splat_onto<T, R, ndim.value, 0>(call, values, coordinates, image);
    } else {
      splat_onto<T, R, ndim.value, order.value>(call, values, coordinates, image);
    }
  });
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
