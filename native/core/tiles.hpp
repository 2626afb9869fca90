// Sums over small boxes of many quantities at once, tile by tile.
//
// `sum_boxes` costs the same for any width, but keeps several rows of every quantity in flight: 24 of them leave the
// first-level cache. Here a task marches down the second axis with a stretch of a row no longer than a tile, for one
// plane of results. It sums the first axis straight from the images, once for each plane of the box, and keeps as many
// rows as a box is wide. The cost grows with the width; up to a dozen voxels that is the faster way.
//
// Sources are like those of `sum_boxes`, but hand out their quantities in `parts` of equal size, one after the other, so
// that the sums of one part fit the registers: column<V>(part, y, i). A sink takes stretches of rows:
// sink(z, y, tile, at, length, sums, pitch), `at` being the first element. There is room for a whole tile in each row of
// sums.
#pragma once

#include "boxes.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS::filters {

constexpr std::int64_t tile_length = 64;

inline std::int64_t count_tiles(const Boxes& boxes) { return (boxes.row + tile_length - 1) / tile_length; }

template <class T, int Quantities, class Source, class Sink>
class TileMarch {
 public:
  TileMarch(const Boxes& boxes, const Source& source, const Sink& sink)
      : boxes_(boxes), source_(source), sink_(sink), tiles_(count_tiles(boxes)) {
    for (int d = 0; d < 3; ++d) radius_[d] = boxes.width[d] / 2;
    reach_ = radius_[2] * boxes.channels;
    pitch_ = padded<T>(tile_length + 2 * reach_);
    rows_ = most(32, 4 * boxes.width[1]);
  }

  // Results of the planes first .. last.
  void run(std::int64_t first, std::int64_t last) const {
    const std::int64_t planes = last - first, chunks = (boxes_.count[1] + rows_ - 1) / rows_;
    const std::int64_t elements = Quantities * pitch_ * (boxes_.width[1] + 2);
    Workspaces spaces(elements * static_cast<std::int64_t>(sizeof(T)));
    // Planes in succession, which share most of what they read.
    parallel(chunks * tiles_ * planes, 8, [&](std::int64_t from, std::int64_t to) {
      Workspaces::Lease space(spaces);
      for (std::int64_t task = from; task < to; ++task) {
        const std::int64_t column = task / planes;
        march(first + task % planes, column / tiles_ * rows_, column % tiles_, space.as<T>());
      }
    });
  }

 private:
  void march(std::int64_t z, std::int64_t top, std::int64_t tile, T* space) const {
    const std::int64_t size = Quantities * pitch_, width = boxes_.width[1], radius = radius_[1];
    const std::int64_t bottom = least(top + rows_, boxes_.count[1]), at = tile * tile_length;
    const std::int64_t length = least(tile_length, boxes_.row - at);
    T *ring = space, *lines = ring + width * size, *sums = lines + size;
    for (std::int64_t i = 0; i < width * size; ++i) ring[i] = T(0);
    for (std::int64_t next = most(top - radius, 0), y = top; y < bottom; ++y) {
      const std::int64_t end = least(y + radius + 1, boxes_.count[1]);
      for (; next < end; ++next) enter(z, next, at, length, ring + next % width * size);
      add_rows(ring, most(y - radius, 0), end, lines);
      for (int q = 0; q < Quantities; ++q) {
        const T* line = lines + q * pitch_;
        Shifted<T>{line, line, boxes_.width[2], boxes_.channels, 0, 0, sums + q * pitch_}.over(length);
      }
      sink_(z, y, tile, at, length, sums, pitch_);
    }
  }

  // Sums along the first axis of a stretch of row y, with what the boxes reach at both ends. Zeros stay outside the image.
  void enter(std::int64_t z, std::int64_t y, std::int64_t at, std::int64_t length, T* row) const {
    constexpr std::int64_t wide = lanes<T>;
    const std::int64_t first = most(at - reach_, 0), last = least(at + length + reach_, boxes_.row);
    T* to = row + reach_ - at;
    if (last - first < wide) {
      for (std::int64_t i = first; i < last; ++i) cross<T>(z, y, i, to + i);
      return;
    }
    for (std::int64_t i = first; i < last; i += wide) {
      const std::int64_t here = least(i, last - wide);
      cross<Pack<T>>(z, y, here, to + here);
    }
  }

  template <class V>
  KERAMORPH_INLINE void cross(std::int64_t z, std::int64_t y, std::int64_t i, T* to) const {
    const std::int64_t first = most(z - radius_[0], 0), last = least(z + radius_[0], boxes_.count[0] - 1);
    for (int part = 0; part < Source::parts; ++part) {
      constexpr int count = Quantities / Source::parts;
      const auto column = source_.template column<V>(part, y, i);
      V sum[count];
      column(first, sum);
      for (std::int64_t plane = first + 1; plane <= last; ++plane) {
        V quantity[count];
        column(plane, quantity);
        KERAMORPH_UNROLL
        for (int q = 0; q < count; ++q) sum[q] = sum[q] + quantity[q];
      }
      KERAMORPH_UNROLL
      for (int q = 0; q < count; ++q) store<V>(to + (part * count + q) * pitch_, sum[q]);
    }
  }

  void add_rows(const T* ring, std::int64_t first, std::int64_t last, T* KERAMORPH_RESTRICT lines) const {
    const std::int64_t size = Quantities * pitch_, width = boxes_.width[1];
    const T* KERAMORPH_RESTRICT row = ring + first % width * size;
    if (last - first == 3) {
      const T* KERAMORPH_RESTRICT second = ring + (first + 1) % width * size;
      const T* KERAMORPH_RESTRICT third = ring + (first + 2) % width * size;
      for (std::int64_t i = 0; i < size; ++i) lines[i] = row[i] + second[i] + third[i];
      return;
    }
    for (std::int64_t i = 0; i < size; ++i) lines[i] = row[i];
    for (std::int64_t y = first + 1; y < last; ++y) {
      const T* KERAMORPH_RESTRICT more = ring + y % width * size;
      for (std::int64_t i = 0; i < size; ++i) lines[i] += more[i];
    }
  }

  Boxes boxes_;
  const Source& source_;
  const Sink& sink_;
  std::int64_t tiles_, radius_[3], reach_, pitch_, rows_;
};

template <class T, int Quantities, class Source, class Sink>
void sum_tiles(const Boxes& boxes, std::int64_t first, std::int64_t last, const Source& source, const Sink& sink) {
  TileMarch<T, Quantities, Source, Sink>(boxes, source, sink).run(first, last);
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS::filters
