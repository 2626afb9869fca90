// Where a block of coordinates points to: whole voxels and fractions, and beyond the edge what the boundary makes of it.
//
// Coordinates are split into an integer and a fraction before anything else, so that the accuracy of a displacement does
// not depend on where in the image it stands, and every boundary is a fold of integers.
#pragma once

#include "types.hpp"
#include "vectors.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

// Voxels by which coefficients are longer at each end than an image whose edge extends.
constexpr int edge = 16;

template <class R, int D>
struct Position {
  Vector<R> fraction[D];
  Index index[D];
};

// Sizes of an image and the distance, in elements, between neighbours along each axis.
template <int D>
struct Lattice {
  int size[D], stride[D], channels;
  Boundary boundary;

  explicit Lattice(const Sampling& call) : channels(static_cast<int>(call.channels)), boundary(call.rule.boundary) {
    int step = channels;
    for (int d = D - 1; d >= 0; --d) {
      size[d] = static_cast<int>(call.image[d]);
      stride[d] = step;
      step *= size[d];
    }
  }
  std::int64_t elements() const { return std::int64_t{stride[0]} * size[0]; }
};

// Split coordinates, relative to `own`, into index and fraction. NaN becomes an index far outside with a fraction NaN.
template <class R, int D>
KERAMORPH_INLINE void split(const Vector<R> (&coordinates)[D], const Index (&own)[D], Position<R, D>& to) {
  for (int d = 0; d < D; ++d) {
    // Held inside +-1e9 so that whole numbers fit 32 bits; no image is that large.
    const Vector<R> given = coordinates[d], safe = hold(given, R(-1e9), R(1e9)), whole = round_down(safe);
    to.fraction[d] = given == given ? safe - whole : given;
    to.index[d] = __builtin_convertvector(whole, Index) + own[d];
  }
}

// Lanes for which not all taps `before` .. `after` around the index lie inside the image.
template <class R, int D>
KERAMORPH_INLINE Index find_outside(const Position<R, D>& position, const Lattice<D>& lattice, int before, int after) {
  Index outside{};
  for (int d = 0; d < D; ++d) {
    const Index index = position.index[d];
    outside |= (index < before) | (index >= lattice.size[d] - after);
  }
  return outside;
}

inline Index remainder(Index index, int period) {
  for (int l = 0; l < lanes; ++l) {
    const int rest = index[l] % period;
    index[l] = rest < 0 ? rest + period : rest;
  }
  return index;
}

// Bring indices into 0 .. size - 1; `constant` and `wrap` mirror, as in SciPy.
inline Index fold(Index index, int size, Boundary boundary) {
  const Index zero{};
  if (boundary == Boundary::nearest) return larger(smaller(index, zero + (size - 1)), zero);
  if (boundary == Boundary::reflect) {
    if (any((index < -size) | (index >= 2 * size))) index = remainder(index, 2 * size);
    index = index < 0 ? -1 - index : index;
    return index >= size ? 2 * size - 1 - index : index;
  }
  const int period = 2 * size - 2 > 1 ? 2 * size - 2 : 1;
  if (any((index <= -size) | (index > period))) index = remainder(index, period);
  index = index < 0 ? -index : index;
  return index >= size ? period - index : index;
}

// SciPy's `wrap`: the last voxel lies on the first, and below zero the seam belongs to the last.
inline Index wrap(Index index, Index on_voxel, int size) {
  if (!any((index < 0) | (index >= size - 1))) return index;
  const Index wrapped = remainder(index, size - 1 > 1 ? size - 1 : 1);
  const Index seam = (index < 0) & on_voxel & (wrapped == 0);
  const Index last = (index == size - 1) & on_voxel;
  return (seam | last) != 0 ? Index{} + (size - 1) : wrapped;
}

// Whether the nearest voxel is the next one; half-way ties turn round where SciPy reflects the coordinate.
template <class R>
inline Index rounds_up(Index index, Vector<R> fraction, int size, Boundary boundary) {
  Index turned{};
  if (boundary == Boundary::reflect) {
    turned = remainder(index, 2 * size) >= size;
  } else if (boundary == Boundary::mirror) {
    const Index place = remainder(index, 2 * size - 2 > 1 ? 2 * size - 2 : 1);
    turned = (place >= size) | ((place == size - 1) & (index < 0));
  } else {
    return to_index(fraction >= R(0.5));
  }
  return to_index(fraction > R(0.5)) | (to_index(fraction == R(0.5)) & ~turned);
}

// Offsets, in elements, of the taps along each axis, and the lanes inside an image with a `constant` boundary.
template <int D, int order>
struct Taps {
  Index offset[D][order + 1];
  Index inside;
};

template <class R, int D, int order>
inline void find_taps(const Position<R, D>& position, const Lattice<D>& lattice, Taps<D, order>& taps) {
  taps.inside = ~Index{};
  for (int d = 0; d < D; ++d) {
    const int size = lattice.size[d], stride = lattice.stride[d];
    const Vector<R> fraction = position.fraction[d];
    Index index = position.index[d];
    Boundary boundary = lattice.boundary;
    if (boundary == Boundary::constant) {
      const Index on_last = (index == size - 1) & to_index(fraction == R(0));
      taps.inside &= (index >= 0) & ((index < size - 1) | on_last) & to_index(fraction >= R(0));
    } else if (boundary == Boundary::wrap) {
      index = wrap(index, to_index(fraction == R(0)), size);
    }
    if constexpr (order == 0) {
      taps.offset[d][0] = fold(index - rounds_up<R>(index, fraction, size, boundary), size, boundary) * stride;
    } else if constexpr (order == 1) {
      // The second tap leaves a constant or wrapped image only with weight zero, so that clipping it will do.
      if (boundary == Boundary::constant || boundary == Boundary::wrap) boundary = Boundary::nearest;
      for (int k = 0; k < 2; ++k) taps.offset[d][k] = fold(index + k, size, boundary) * stride;
    } else {
      const int shift = boundary == Boundary::nearest ? edge - 1 : -1;
      for (int k = 0; k < 4; ++k) taps.offset[d][k] = fold(index + (shift + k), size, boundary) * stride;
    }
  }
}

// One line of positions, or a piece of it: the unit of work of all samplers.
template <int D>
struct Row {
  std::int64_t batch, first;  // first position, counted over the whole batch
  int count;
  int own[D];  // voxel of the first position
};

// All rows of a call. Pieces have the same length whatever the number of threads.
template <int D>
class Rows {
 public:
  static constexpr std::int64_t longest = 4096;

  explicit Rows(const Sampling& call) : relative_(call.rule.relative) {
    line_ = relative_ ? call.field[D - 1] : call.field[0];
    lines_ = 1;
    for (int d = 0; d < D - 1; ++d) {
      sizes_[d] = relative_ ? call.field[d] : 1;
      lines_ *= sizes_[d];
    }
    pieces_ = (line_ + longest - 1) / longest;
    count_ = call.batch * lines_ * pieces_;
  }

  std::int64_t count() const { return count_; }
  std::int64_t per_batch() const { return lines_ * pieces_; }
  // Rows that make some 16 thousand positions: enough to be worth handing to a thread.
  std::int64_t grain() const { return 1 + 16384 / (line_ < 1 ? 1 : line_); }

  Row<D> at(std::int64_t number) const {
    Row<D> row;
    const std::int64_t piece = number % pieces_, line = number / pieces_;
    row.batch = line / lines_;
    row.first = line * line_ + piece * longest;
    row.count = static_cast<int>(line_ - piece * longest < longest ? line_ - piece * longest : longest);
    std::int64_t rest = line % lines_;
    row.own[D - 1] = relative_ ? static_cast<int>(piece * longest) : 0;
    for (int d = D - 2; d >= 0; --d) {
      row.own[d] = static_cast<int>(rest % sizes_[d]);
      rest /= sizes_[d];
    }
    return row;
  }

  // Call visit(block of positions, number of the first one, how many of the lanes count) along a row.
  template <class R, class Visit>
  KERAMORPH_INLINE void walk(const Row<D>& row, const R* coordinates, const Visit& visit) const {
    Index own[D];
    for (int d = 0; d < D; ++d) own[d] = Index{} + (relative_ ? row.own[d] : 0);
    const Index lane = count_up();
    const R* from = coordinates + row.first * D;
    for (int done = 0; done < row.count; done += lanes, from += lanes * D) {
      const int count = row.count - done < lanes ? row.count - done : lanes;
      Vector<R> block[D];
      Index place = lane + done;
      if (count == lanes) {
        load_components<D>(from, block);
      } else {
        // Idle lanes do what the last one does.
        R padded[lanes * D];
        for (int l = 0; l < lanes; ++l)
          for (int d = 0; d < D; ++d) padded[l * D + d] = from[(l < count ? l : count - 1) * D + d];
        load_components<D>(padded, block);
        place = smaller(place, Index{} + (row.count - 1));
      }
      if (relative_) own[D - 1] = place + row.own[D - 1];
      Position<R, D> position;
      split<R, D>(block, own, position);
      visit(position, row.first + done, count);
    }
  }

 private:
  bool relative_;
  std::int64_t line_, lines_, pieces_, count_, sizes_[D];
};

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
