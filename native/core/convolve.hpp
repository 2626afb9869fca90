// Separable convolution in one pass over the image: Gaussian smoothing and the spline prefilter.
//
// A task takes a few planes along the first axis and marches down the second one. For each row it convolves along the
// first axis straight from the image, then along the last, and keeps the result in a ring of rows, from which the
// convolution along the second axis draws. Everything between image and result stays in the second-level cache, and
// the image is read from memory once: planes that neighbouring tasks share are still in the last-level cache.
//
// Symmetric taps are not folded into pairs. With a fused multiply-add a pair costs as much as two taps, and unfolded
// taps let several neighbouring results share each load.
#pragma once

#include "lanes.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS::filters {

// One axis: `count` voxels come in, `count + 2 edge` go out. Result i is the sum of taps[k] * input[from[i + k]].
struct Filter {
  std::int64_t count, edge, radius;
  const void* taps;  // 2 radius + 1 in the type of the image
  const std::int32_t* from;
  std::int64_t grown() const { return count + 2 * edge; }
};

// results[b] = sum of taps[k] * rows[b + k], for `Count` neighbouring rows of results.
template <class T, int Count>
struct Blend {
  const T* const* rows;
  const T* taps;
  std::int64_t length;  // number of taps, at least Count
  T* const* results;

  template <class V, int Steps>
  KERAMORPH_INLINE void run(std::int64_t i) const {
    constexpr std::int64_t wide = sizeof(V) / sizeof(T);
    V sum[Count][Steps] = {};
    const auto add = [&](std::int64_t j, int first, int last) {
      V value[Steps];
      for (int s = 0; s < Steps; ++s) value[s] = load<V>(rows[j] + i + s * wide);
#pragma GCC unroll 4
      for (int b = first; b <= last; ++b) {
        const T weight = taps[j - b];
        for (int s = 0; s < Steps; ++s) sum[b][s] = sum[b][s] + value[s] * weight;
      }
    };
#pragma GCC unroll 4
    for (int j = 0; j < Count - 1; ++j) add(j, 0, j);
    for (std::int64_t j = Count - 1; j < length; ++j) add(j, 0, Count - 1);
#pragma GCC unroll 4
    for (int j = 0; j < Count - 1; ++j) add(length + j, j + 1, Count - 1);
    for (int b = 0; b < Count; ++b) {
      for (int s = 0; s < Steps; ++s) store<V>(results[b] + i + s * wide, sum[b][s]);
    }
  }

  void over(std::int64_t count) const {
    constexpr std::int64_t wide = lanes<T>;
    constexpr int steps = Count == 1 ? 4 : 2;
    std::int64_t i = 0;
    for (; i + steps * wide <= count; i += steps * wide) run<Pack<T>, steps>(i);
    for (; i + wide <= count; i += wide) run<Pack<T>, 1>(i);
    if (i == count) return;
    if (count >= wide) return run<Pack<T>, 1>(count - wide);
    for (; i < count; ++i) run<T, 1>(i);
  }
};

// Results of consecutive rows, four at a time where there are as many.
template <class T>
void blend_rows(const T* const* rows, const T* taps, std::int64_t length, T* const* results, std::int64_t rows_out,
                std::int64_t count) {
  std::int64_t done = 0;
  if (length >= 4) {
    for (; done + 4 <= rows_out; done += 4) Blend<T, 4>{rows + done, taps, length, results + done}.over(count);
  }
  for (; done < rows_out; ++done) Blend<T, 1>{rows + done, taps, length, results + done}.over(count);
}

template <class T>
class Convolution {
 public:
  Convolution(const Filter (&axes)[3], std::int64_t channels, std::int64_t batch) : axes_(axes), channels_(channels) {
    const Filter &z = axes_[0], &y = axes_[1], &x = axes_[2];
    row_in_ = x.count * channels;
    row_out_ = x.grown() * channels;
    margin_ = (x.edge + x.radius) * channels;
    // More planes at once read the image less often, as long as the ring stays in the second-level cache.
    ring_ = least(y.count, 2 * y.radius + block);
    pitch_ = padded<T>(row_out_);
    planes_ = z.radius <= 4 ? 8 : 16;
    while (planes_ > 4 && planes_ * ring_ * pitch_ * static_cast<std::int64_t>(sizeof(T)) > cache) planes_ /= 2;
    planes_ = least(planes_, z.grown());
    slabs_ = (z.grown() + planes_ - 1) / planes_;
    chunk_ = y.grown();
    if (batch * slabs_ < 16) chunk_ = most(most(32, 4 * y.radius), (chunk_ * batch * slabs_ + 15) / 16);
    chunks_ = (y.grown() + chunk_ - 1) / chunk_;
  }

  void run(std::int64_t batch, const T* input, T* output) const {
    const std::int64_t size_in = axes_[0].count * axes_[1].count * row_in_;
    const std::int64_t size_out = axes_[0].grown() * axes_[1].grown() * row_out_;
    Workspaces spaces(bytes());
    parallel(batch * slabs_ * chunks_, 1, [&](std::int64_t first, std::int64_t last) {
      Workspaces::Lease space(spaces);
      for (std::int64_t task = first; task < last; ++task) {
        const std::int64_t entry = task / (slabs_ * chunks_);
        march(task / chunks_ % slabs_, task % chunks_, input + entry * size_in, output + entry * size_out,
              space.as<T>());
      }
    });
  }

 private:
  static constexpr std::int64_t block = 4;  // rows of results along the second axis at once
  static constexpr std::int64_t cache = 5 << 18;

  std::int64_t pointers() const {
    return 2 * axes_[0].radius + planes_ + 2 * axes_[1].radius + 2 * axes_[2].radius + 2 * block + planes_ + 8;
  }
  std::int64_t extended() const { return padded<T>(row_in_ + 2 * margin_); }
  std::int64_t bytes() const {
    return (planes_ * (extended() + ring_ * pitch_)) * static_cast<std::int64_t>(sizeof(T)) +
           pointers() * static_cast<std::int64_t>(sizeof(void*));
  }

  void march(std::int64_t slab, std::int64_t chunk, const T* input, T* output, T* space) const {
    const Filter& along = axes_[1];
    const std::int64_t z = slab * planes_, planes = least(planes_, axes_[0].grown() - z);
    const std::int64_t end = least((chunk + 1) * chunk_, along.grown());
    T* ring = space + planes_ * extended();
    const T** rows = reinterpret_cast<const T**>(ring + planes_ * ring_ * pitch_);
    T** results = const_cast<T**>(rows + pointers() - planes_ - block);
    std::int64_t made = -1;
    for (std::int64_t y = chunk * chunk_; y < end; y += block) {
      const std::int64_t here = least(block, end - y), taps = 2 * along.radius + 1;
      std::int64_t low = along.count, high = 0;
      for (std::int64_t j = 0; j < here + taps - 1; ++j) {
        low = least(low, along.from[y + j]);
        high = most(high, along.from[y + j]);
      }
      if (made < 0) made = low;
      for (; made <= high; ++made) fill(z, planes, made, input, space, ring, rows, results);
      for (std::int64_t p = 0; p < planes; ++p) {
        for (std::int64_t j = 0; j < here + taps - 1; ++j) rows[j] = place(ring, along.from[y + j], p);
        for (std::int64_t b = 0; b < here; ++b) results[b] = output + ((z + p) * along.grown() + y + b) * row_out_;
        blend_rows<T>(rows, static_cast<const T*>(along.taps), taps, results, here, row_out_);
      }
    }
  }

  T* place(T* ring, std::int64_t y, std::int64_t plane) const { return ring + (y % ring_ * planes_ + plane) * pitch_; }

  // Row y of each plane, convolved along the first and the last axis, goes into the ring.
  void fill(std::int64_t z, std::int64_t planes, std::int64_t y, const T* input, T* space, T* ring, const T** rows,
            T** results) const {
    const Filter &across = axes_[0], &last = axes_[2];
    const std::int64_t taps = 2 * across.radius + 1;
    for (std::int64_t j = 0; j < planes + taps - 1; ++j) {
      rows[j] = input + (across.from[z + j] * axes_[1].count + y) * row_in_;
    }
    for (std::int64_t p = 0; p < planes; ++p) results[p] = space + p * extended() + margin_;
    blend_rows<T>(rows, static_cast<const T*>(across.taps), taps, results, planes, row_in_);
    const std::int64_t ends = last.edge + last.radius;
    for (std::int64_t p = 0; p < planes; ++p) {
      T* row = space + p * extended();
      const T* inner = row + margin_;
      for (std::int64_t k = 0; k < ends; ++k) {
        const T* left = inner + last.from[k] * channels_;
        const T* right = inner + last.from[ends + last.count + k] * channels_;
        T* after = row + margin_ + row_in_ + k * channels_;
        for (std::int64_t c = 0; c < channels_; ++c) row[k * channels_ + c] = left[c], after[c] = right[c];
      }
      for (std::int64_t k = 0; k <= 2 * last.radius; ++k) rows[k] = row + k * channels_;
      T* result = place(ring, y, p);
      blend_rows<T>(rows, static_cast<const T*>(last.taps), 2 * last.radius + 1, &result, 1, row_out_);
    }
  }

  const Filter (&axes_)[3];
  std::int64_t channels_, row_in_, row_out_, margin_, ring_, pitch_, planes_, slabs_, chunk_, chunks_;
};

// Where tap k of result i lies, for i + k = 0 .. count + 2 edge + 2 radius: the fold of the Python side's `lines.py`.
KERAMORPH_INLINE void fold_line(std::int64_t count, std::int64_t reach, Boundary boundary, std::int32_t* from) {
  for (std::int64_t k = 0; k < count + 2 * reach; ++k) {
    std::int64_t i = k - reach;
    if (boundary == Boundary::nearest) {
      i = most(0, least(i, count - 1));
    } else if (boundary == Boundary::reflect) {
      i = (i % (2 * count) + 2 * count) % (2 * count);
      i = least(i, 2 * count - 1 - i);
    } else {
      const std::int64_t period = most(2 * count - 2, 1);
      i = (i % period + period) % period;
      i = least(i, period - i);
    }
    from[k] = static_cast<std::int32_t>(i);
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS::filters
