// Where self-similarities come from: the neighbours of a voxel, and planes of maps that are kept for a while.
#pragma once

#include "similarities.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS::filters {

// Sizes that all parts know: three axes, and elements of a row and of a plane.
struct Extent {
  std::int64_t count[3], channels, row, plane, tiles, dilation, step;  // step: dilation in elements of a row
  const std::int32_t *before, *behind;  // the neighbours of each element of a row
};

KERAMORPH_INLINE std::int64_t before(std::int64_t at, std::int64_t dilation) { return most(at - dilation, 0); }
KERAMORPH_INLINE std::int64_t behind(std::int64_t at, std::int64_t dilation, std::int64_t count) {
  return least(at + dilation, count - 1);
}

// Some elements of a row, `by` elements further. Near the ends of a row each is looked up, so that the edge is extended.
template <class V, class T>
KERAMORPH_INLINE V load_shifted(const T* row, std::int64_t i, std::int64_t by, const std::int32_t* where,
                                std::int64_t count) {
  constexpr std::int64_t wide = sizeof(V) / sizeof(T);
  if (i + by >= 0 && i + by + wide <= count) return load<V>(row + i + by);
  T value[wide];
  for (std::int64_t l = 0; l < wide; ++l) value[l] = row[where[i + l]];
  return load<V>(value);
}

// The neighbours of some elements of a row.
template <class V, int D, class T>
KERAMORPH_INLINE void load_neighbours(const T* image, const Extent& extent, std::int64_t z, std::int64_t y,
                                      std::int64_t i, V* at) {
  const std::int64_t row = extent.row, dilation = extent.dilation;
  const T *plane = image + z * extent.plane, *here = image + y * row + i;
  if constexpr (D == 3) {
    at[0] = load<V>(here + before(z, dilation) * extent.plane);
    at[1] = load<V>(here + behind(z, dilation, extent.count[0]) * extent.plane);
  }
  at[2 * D - 4] = load<V>(plane + before(y, dilation) * row + i);
  at[2 * D - 3] = load<V>(plane + behind(y, dilation, extent.count[1]) * row + i);
  at[2 * D - 2] = load_shifted<V>(plane + y * row, i, -extent.step, extent.before, row);
  at[2 * D - 1] = load_shifted<V>(plane + y * row, i, extent.step, extent.behind, row);
}

// Squared differences of all pairs of neighbours, of the fixed image and then of the moved one, for `sum_tiles`.
template <class T, int D>
struct Squares {
  static constexpr Pairs<D> pairs{};
  static constexpr int count = Pairs<D>::count;
  const T *fixed, *moved;
  Extent extent;

  template <class V>
  static KERAMORPH_INLINE void take(const T* image, const Extent& extent, std::int64_t z, std::int64_t y, std::int64_t i,
                                    V* quantity) {
    V at[Pairs<D>::neighbours];
    load_neighbours<V, D>(image, extent, z, y, i, at);
    KERAMORPH_UNROLL
    for (int k = 0; k < count; ++k) {
      const V difference = at[pairs.first[k]] - at[pairs.second[k]];
      quantity[k] = difference * difference;
    }
  }

  static constexpr int parts = 2;

  template <class V>
  KERAMORPH_INLINE auto column(int part, std::int64_t y, std::int64_t i) const {
    const T* image = part == 0 ? fixed : moved;
    return [&extent = extent, image, y, i](std::int64_t z, V(&quantity)[count]) __attribute__((always_inline)) {
      take<V>(image, extent, z, y, i, quantity);
    };
  }
};

// A ring of planes of several maps. Planes are a few cache lines more than whole small pages apart, so that those of one
// column do not push each other out of the cache.
template <class T>
struct Ring {
  T* memory;
  std::int64_t maps, planes, plane, row;

  static std::int64_t spread(std::int64_t elements) {
    constexpr std::int64_t line = 64 / sizeof(T), page = 4096 / sizeof(T);
    return elements < page ? padded<T>(elements) : (elements + page - 1) / page * page + 3 * line;
  }
  std::int64_t elements() const { return maps * planes * plane; }
  T* at(std::int64_t map, std::int64_t z, std::int64_t y) const {
    const std::uint32_t slot = static_cast<std::uint32_t>(z) % static_cast<std::uint32_t>(planes);
    return memory + (slot * maps + map) * plane + y * row;
  }
};

template <class T, int Maps>
struct RingValues {
  static constexpr int parts = 1;
  Ring<T> ring;

  template <class V>
  KERAMORPH_INLINE auto column(int, std::int64_t y, std::int64_t i) const {
    return [&ring = ring, y, i](std::int64_t z, V(&quantity)[Maps]) __attribute__((always_inline)) {
      const T* from = ring.at(0, z, y) + i;
      for (int q = 0; q < Maps; ++q) quantity[q] = load<V>(from + q * ring.plane);
    };
  }
};

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS::filters
