// Sums over boxes around each voxel of several quantities at once, in one pass over the images they come from.
//
// Along the first two axes a sum of `width` values is the sum of the rest of one block and the beginning of the next,
// where blocks of the width's own length start at absolute multiples of it. That costs three additions for any width,
// adds up nothing but values inside the window (a running sum that adds and subtracts would drift, and one NaN would
// spoil the rest of a line), and gives the same bits however the work is cut. Along the last axis, which lies along the
// registers, sums of a few neighbours are put together.
//
// A task takes the `width` rows of results that share two blocks along the second axis, or some of them, and marches
// down the first one: the sums along the second axis come straight from the images, whose rows lie next to each other
// there, go into a ring of rows, one for each plane of a window, and are done with while they lie in the second-level
// cache.
//
// A source hands out the quantities: source.template column<V>(z, i) is a function of a row y and of where to put
// them, for the registers (or, with V == T, the single elements) that start at element i of a row. A sink takes the
// finished rows, which are then its own: sink(z, y, sums, pitch), with `pitch` elements from one quantity's row to the
// next.
#pragma once

#include "lanes.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS::filters {

// The image as three axes, and the odd width of the boxes along each. `row` counts elements: voxels times channels.
struct Boxes {
  std::int64_t count[3], width[3], channels, row;
};

inline Boxes lay_out(const Volume& volume, const std::int64_t* size) {
  Boxes boxes;
  spread_axes(volume, boxes.count);
  for (int d = 0; d < 3; ++d) {
    const std::int64_t width = d < 3 - volume.ndim ? 1 : size[d - (3 - volume.ndim)];
    // A box that reaches over the whole axis from anywhere does no more when it is larger.
    boxes.width[d] = least(width, 2 * boxes.count[d] - 1);
  }
  boxes.channels = volume.channels;
  boxes.row = boxes.count[2] * volume.channels;
  return boxes;
}

// result[i] = sum over k < terms of values[i + k * step], plus the same of `rest` (as many as `extra`), for i < count.
template <class T>
struct Shifted {
  const T *values, *rest;
  std::int64_t terms, step, extra, far;
  T* result;

  template <class V, int Steps>
  KERAMORPH_INLINE void run(std::int64_t i) const {
    constexpr std::int64_t wide = sizeof(V) / sizeof(T);
    V sum[Steps];
    for (int s = 0; s < Steps; ++s) sum[s] = load<V>(values + i + s * wide);
    for (std::int64_t k = 1; k < terms; ++k) {
      for (int s = 0; s < Steps; ++s) sum[s] = sum[s] + load<V>(values + k * step + i + s * wide);
    }
    for (std::int64_t k = 0; k < extra; ++k) {
      for (int s = 0; s < Steps; ++s) sum[s] = sum[s] + load<V>(rest + k * far + i + s * wide);
    }
    for (int s = 0; s < Steps; ++s) store<V>(result + i + s * wide, sum[s]);
  }

  void over(std::int64_t count) const {
    constexpr std::int64_t wide = lanes<T>;
    std::int64_t i = 0;
    for (; i + 4 * wide <= count; i += 4 * wide) run<Pack<T>, 4>(i);
    for (; i + wide <= count; i += wide) run<Pack<T>, 1>(i);
    if (i < count && count >= wide) return run<Pack<T>, 1>(count - wide);
    for (; i < count; ++i) run<T, 1>(i);
  }
};

// Number of neighbours that are added up first, so that their sums make up a box with the fewest additions.
KERAMORPH_INLINE std::int64_t stride_of(std::int64_t width) {
  std::int64_t best = 1;
  for (std::int64_t a = 2; a * a <= 2 * width; ++a) {
    if (a + width / a + width % a < best + width / best + width % best) best = a;
  }
  return width < 7 ? 1 : best;
}

template <class T, int Quantities, class Source, class Sink>
class BoxMarch {
 public:
  BoxMarch(const Boxes& boxes, const Source& source, const Sink& sink)
      : boxes_(boxes), source_(source), sink_(sink), stride_(stride_of(boxes.width[2])) {
    const std::int64_t *count = boxes.count, *width = boxes.width;
    pitch_ = padded<T>(boxes.row);
    line_ = padded<T>(boxes.row + (width[2] - 1) * boxes.channels);
    // A ring that outgrows the second-level cache costs more than reading some rows of the images once more.
    const std::int64_t ring = (width[0] + 1) * width[1] * Quantities * pitch_ * static_cast<std::int64_t>(sizeof(T));
    parts_ = least(least(3, width[1]), 1 + ring / cache);
    rows_ = (width[1] + parts_ - 1) / parts_;
    super_ = rows_ * Quantities * pitch_;
    bands_ = groups(count[1], width[1]);
    slabs_ = groups(count[0], width[0]);
    // Chunks along the first axis do a block of planes twice: only where there are too few bands to go round.
    chunk_ = slabs_;
    if (bands_ < 8) chunk_ = most(most(8, 64 / width[0]), (slabs_ * bands_ + 15) / 16);
    chunks_ = (slabs_ + chunk_ - 1) / chunk_;
  }

  void run() const {
    const std::int64_t elements = (boxes_.width[0] + 1) * super_ + rows_ * Quantities * line_ +
                                  Quantities * (line_ + pitch_) + boxes_.width[1] * Quantities * lanes<T>;
    Workspaces spaces(elements * static_cast<std::int64_t>(sizeof(T)));
    parallel(bands_ * parts_ * chunks_, 1, [&](std::int64_t first, std::int64_t last) {
      Workspaces::Lease space(spaces);
      for (std::int64_t task = first; task < last; ++task) march(task / chunks_, task % chunks_, space.as<T>());
    });
  }

 private:
  static constexpr std::int64_t cache = 1 << 18;

  // What a task works in: the ring of bands, the sum of those that came in since the block began, rows of box sums
  // along two axes with zeros at both ends, partial sums along the last axis, and a column of registers.
  struct Space {
    T *ring, *head, *lines, *parts, *sums, *column;
  };

  // The rows of results of a task: first <= k < last of the rows start + width / 2 + k.
  struct Band {
    std::int64_t start, first, last;
  };

  // Group g, counted from -1, holds the results whose window starts in block g.
  static std::int64_t groups(std::int64_t count, std::int64_t width) { return (count - 1 - width / 2) / width + 2; }

  void march(std::int64_t part, std::int64_t chunk, T* memory) const {
    const std::int64_t width = boxes_.width[0], count = boxes_.count[0], radius = boxes_.width[1] / 2;
    const std::int64_t begin = part % parts_ * rows_, end = least(begin + rows_, boxes_.width[1]);
    Band band{(part / parts_ - 1) * boxes_.width[1], 0, 0};
    band.first = most(begin, -band.start - radius);
    band.last = least(end, boxes_.count[1] - band.start - radius);
    if (band.first >= band.last) return;
    Space space;
    space.ring = memory;
    space.head = space.ring + width * super_;
    space.lines = space.head + super_;
    space.parts = space.lines + rows_ * Quantities * line_;
    space.sums = space.parts + Quantities * line_;
    space.column = space.sums + Quantities * pitch_;
    clear(space.lines, rows_ * Quantities * line_);
    clear(space.head, super_);
    const std::int64_t from = chunk * chunk_ - 1, to = least(from + chunk_, slabs_ - 1);
    clear(space.ring, width * super_);
    for (std::int64_t k = 0; k < width && from >= 0; ++k) enter(band, from * width + k, space.ring + k * super_, space);
    for (std::int64_t slab = from; slab < to; ++slab) {
      for (std::int64_t k = width - 2; k >= 0 && slab >= 0; --k) {
        add(space.ring + k * super_, space.ring + (k + 1) * super_);
      }
      clear(space.head, super_);
      for (std::int64_t k = 0; k < width; ++k) {
        const std::int64_t z = slab * width + width / 2 + k;
        if (z >= count) break;
        enter(band, (slab + 1) * width + k, space.ring + k * super_, space);
        for (std::int64_t p = band.first; p < band.last && z >= 0; ++p) {
          hand_out(z, band.start + radius + p, p - band.first, space);
        }
      }
    }
  }

  static void clear(T* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = T(0);
  }

  void add(T* KERAMORPH_RESTRICT sum, const T* KERAMORPH_RESTRICT more) const {
    for (std::int64_t i = 0; i < super_; ++i) sum[i] += more[i];
  }

  // Plane z comes in: what its place in the ring held goes out together with the sum so far, and it takes that place.
  void enter(const Band& band, std::int64_t z, T* row, const Space& space) const {
    constexpr std::int64_t wide = lanes<T>;
    const bool inside = z >= 0 && z < boxes_.count[0];
    if (boxes_.row < wide) {
      for (std::int64_t i = 0; i < boxes_.row; ++i) cross<T>(band, z, inside, i, row + i, space.head + i, space);
      return;
    }
    // The last registers overlap those before in the images, but have places of their own in the ring.
    for (std::int64_t at = 0; at < boxes_.row; at += wide) {
      cross<Pack<T>>(band, z, inside, least(at, boxes_.row - wide), row + at, space.head + at, space);
    }
  }

  // The same for one column of registers: sums along the second axis, straight from the images.
  template <class V>
  KERAMORPH_INLINE void cross(const Band& band, std::int64_t z, bool inside, std::int64_t i, T* row, T* head,
                              const Space& space) const {
    constexpr std::int64_t wide = sizeof(V) / sizeof(T);
    const std::int64_t width = boxes_.width[1], count = boxes_.count[1], next = band.start + width - 1;
    const std::int64_t pitch = pitch_, line = line_;
    T* out = space.lines + boxes_.width[2] / 2 * boxes_.channels + i;
    if (!inside) {
      for (std::int64_t k = 0; k < (band.last - band.first) * Quantities; ++k) {
        store<V>(out + k * line, load<V>(row + k * pitch) + load<V>(head + k * pitch));
        store<V>(row + k * pitch, V{});
      }
      return;
    }
    V sum[Quantities] = {};
    const auto column = source_.template column<V>(z, i);
    const auto take = [&](std::int64_t y) {
      V quantity[Quantities];
      column(y, quantity);
      for (int q = 0; q < Quantities; ++q) sum[q] = sum[q] + quantity[q];
    };
    T* const tails = space.column;
    for (std::int64_t k = width - 1; k >= band.first; --k) {
      if (band.start >= 0 && band.start + k < count) take(band.start + k);
      if (k >= band.last) continue;
      for (int q = 0; q < Quantities; ++q) store<V>(tails + (k * Quantities + q) * wide, sum[q]);
    }
    for (int q = 0; q < Quantities; ++q) sum[q] = V{};
    for (std::int64_t k = 0; k < band.last; ++k) {
      if (k > 0 && next + k < count) take(next + k);
      if (k < band.first) continue;
      const std::int64_t to = (k - band.first) * Quantities;
      for (int q = 0; q < Quantities; ++q) {
        const V value = load<V>(tails + (k * Quantities + q) * wide) + sum[q];
        const V so_far = load<V>(head + (to + q) * pitch);
        store<V>(out + (to + q) * line, load<V>(row + (to + q) * pitch) + so_far);
        store<V>(row + (to + q) * pitch, value);
        store<V>(head + (to + q) * pitch, so_far + value);
      }
    }
  }

  // Sums along the last axis, then the sink.
  void hand_out(std::int64_t z, std::int64_t y, std::int64_t place, const Space& space) const {
    const std::int64_t width = boxes_.width[2], step = boxes_.channels, times = width / stride_, rest = width % stride_;
    const std::int64_t length = boxes_.row + (times - 1) * stride_ * step;
    const T* lines = space.lines + place * Quantities * line_;
    const T* parts = stride_ == 1 ? lines : space.parts;
    for (int q = 0; q < Quantities && stride_ > 1; ++q) {
      const T* line = lines + q * line_;
      Shifted<T>{line, line, stride_, step, 0, 0, space.parts + q * line_}.over(length);
    }
    for (int q = 0; q < Quantities; ++q) {
      const T* last = lines + q * line_ + times * stride_ * step;
      Shifted<T>{parts + q * line_, last, times, stride_ * step, rest, step, space.sums + q * pitch_}.over(boxes_.row);
    }
    sink_(z, y, space.sums, pitch_);
  }

  Boxes boxes_;
  const Source& source_;
  const Sink& sink_;
  std::int64_t stride_, pitch_, line_, parts_, rows_, super_, bands_, slabs_, chunk_, chunks_;
};

template <class T, int Quantities, class Source, class Sink>
void sum_boxes(const Boxes& boxes, const Source& source, const Sink& sink) {
  BoxMarch<T, Quantities, Source, Sink>(boxes, source, sink).run();
}

// 1 / number of voxels of a box that lie inside, along one axis, each `repeat` times.
template <class T>
void count_inside(std::int64_t count, std::int64_t width, std::int64_t repeat, T* share) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t inside = least(i + width / 2, count - 1) - most(i - width / 2, 0) + 1;
    for (std::int64_t k = 0; k < repeat; ++k) share[i * repeat + k] = T(1) / static_cast<T>(inside);
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS::filters
