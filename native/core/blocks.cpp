// What blocks of voxels add up to, in one pass over two images: all that a local correlation of windows made of whole
// blocks, and a displacement with one vector for each block, need to know of the voxels.
//
// Along each axis of n voxels and b blocks, block k begins at voxel floor(k n / b), and its vector stands at its share of
// the field of view: between those centres the displacement is linear, beyond the outermost ones constant. A task is one
// line of blocks; the rows of voxels in it are added up element by element, and along the line at the end.
#include <algorithm>

#include "choose.hpp"
#include "sampler.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

#include "functions.inc"

namespace blocks {
namespace {

constexpr std::int64_t grain = 1 << 13;  // voxels

// Where the voxels of an axis lie among its blocks; as many more than there are voxels as a vector may overshoot.
template <class R>
struct Axis {
  std::int64_t voxels, blocks;
  std::int32_t *below, *above;  // neighbouring blocks
  R* fraction;                  // of the way between them

  static std::int64_t bytes(std::int64_t voxels) {
    return (voxels + lanes) * static_cast<std::int64_t>(2 * sizeof(std::int32_t) + sizeof(R));
  }
  Axis() = default;
  Axis(std::int64_t voxels_, std::int64_t blocks_, void* space) : voxels(voxels_), blocks(blocks_) {
    const std::int64_t room = voxels + lanes;
    fraction = static_cast<R*>(space);
    below = reinterpret_cast<std::int32_t*>(fraction + room);
    above = below + room;
    const double ratio = static_cast<double>(blocks) / static_cast<double>(voxels);
    for (std::int64_t i = 0; i < room; ++i) {
      const double given = (static_cast<double>(std::min(i, voxels - 1)) + 0.5) * ratio - 0.5;
      const double place = std::clamp(given, 0.0, static_cast<double>(blocks - 1));
      below[i] = static_cast<std::int32_t>(place);
      above[i] = static_cast<std::int32_t>(std::min<std::int64_t>(below[i] + 1, blocks - 1));
      fraction[i] = static_cast<R>(place - below[i]);
    }
  }
  std::int64_t begin(std::int64_t block) const { return block * voxels / blocks; }
};

template <class R, int D>
class Adder {
 public:
  using V = Vector<R>;
  static constexpr int moment_count = 3, push_count = 3 * D + 1, quantities = moment_count + 1 + push_count;

  Adder(const Volume& volume, const Blocks& call)
      : call_(call),
        sampling_(sampling(volume, call)),
        moving_(sampling_, static_cast<const R*>(call.moving)),
        moving_mask_(sampling_, static_cast<const R*>(call.moving_mask)) {
    std::int64_t bytes = 0;
    for (int d = 0; d < D; ++d) bytes += Axis<R>::bytes(volume.size[d]) + 64;
    tables_.grow(bytes);
    char* space = tables_.as<char>();
    for (int d = 0; d < D; ++d) {
      axis_[d] = Axis<R>(volume.size[d], call.blocks[d], space);
      space += (Axis<R>::bytes(volume.size[d]) + 63) / 64 * 64;
      middle_[d] = static_cast<R>(call.shape[d] - 1) / 2;
    }
    for (int d = 0; d < D - 1; ++d) lines_ *= call.blocks[d];
    pitch_ = (volume.size[D - 1] + 2 * lanes - 1) / lanes * lanes;
    row_ = call.blocks[D - 1] * D;
  }

  void run(std::int64_t batch) const {
    const std::int64_t work = static_cast<std::int64_t>(sizeof(R)) * (pitch_ * quantities + row_ + lanes);
    Workspaces spaces(work);
    std::int64_t voxels = axis_[D - 1].voxels;
    for (int d = 0; d < D - 1; ++d) voxels *= (axis_[d].voxels + axis_[d].blocks - 1) / axis_[d].blocks;
    parallel(batch * lines_, std::max<std::int64_t>(1, grain / voxels), [&](std::int64_t first, std::int64_t last) {
      const Workspaces::Lease lease(spaces);
      for (std::int64_t line = first; line < last; ++line) add_line(line, lease.as<R>());
    });
  }

 private:
  static Sampling sampling(const Volume& volume, const Blocks& call) {
    Sampling result{};
    result.rule = {1, Boundary::nearest, 0.0, false, false, 0};
    result.image_type = result.coordinate_type = volume.type;
    result.ndim = D;
    result.batch = volume.batch;
    result.channels = 1;
    for (int d = 0; d < max_ndim; ++d) result.image[d] = d < D ? call.shape[d] : 1;
    for (int d = 0; d < max_ndim; ++d) result.field[d] = 1;
    return result;
  }

  // One line of blocks: all rows of voxels in it.
  void add_line(std::int64_t line, R* space) const {
    R *sums = space, *vectors = sums + quantities * pitch_;
    std::fill(sums, sums + quantities * pitch_, R(0));
    const std::int64_t batch = line / lines_;
    std::int64_t rest = line % lines_, first[2] = {0, 0}, end[2] = {1, 1};
    for (int d = D - 2; d >= 0; --d) {
      const std::int64_t block = rest % axis_[d].blocks;
      rest /= axis_[d].blocks;
      first[d] = axis_[d].begin(block);
      end[d] = axis_[d].begin(block + 1);
    }
    for (std::int64_t z = first[0]; z < end[0]; ++z) {
      for (std::int64_t y = first[1]; y < end[1]; ++y) add_row(batch, {{z, y}}, sums, vectors);
    }
    finish(line, sums);
  }

  struct Place {
    std::int64_t at[2];  // voxel on the axes before the last
  };

  // The vectors of the blocks along a row of voxels, between the lines of blocks.
  void blend(std::int64_t batch, const Place& place, R* vectors) const {
    const R* field = static_cast<const R*>(call_.displacement) + batch * lines_ * row_;
    std::fill(vectors, vectors + row_, R(0));
    for (int corner = 0; corner < 1 << (D - 1); ++corner) {
      R share = 1;
      std::int64_t line = 0;
      for (int d = 0; d < D - 1; ++d) {
        const Axis<R>& axis = axis_[d];
        const std::int64_t i = place.at[d];
        const bool next = (corner >> d) & 1;
        share *= next ? axis.fraction[i] : 1 - axis.fraction[i];
        line = line * axis.blocks + (next ? axis.above[i] : axis.below[i]);
      }
      if (share == 0) continue;
      const R* from = field + line * row_;
      for (std::int64_t i = 0; i < row_; ++i) vectors[i] += share * from[i];
    }
  }

  void add_row(std::int64_t batch, const Place& place, R* sums, R* vectors) const {
    blend(batch, place, vectors);
    std::int64_t row = batch;
    double start[D];
    for (int i = 0; i < D; ++i) start[i] = call_.matrix[i * (D + 1) + D];
    for (int d = 0; d < D - 1; ++d) {
      row = row * axis_[d].voxels + place.at[d];
      for (int i = 0; i < D; ++i) start[i] += call_.matrix[i * (D + 1) + d] * static_cast<double>(place.at[d]);
    }
    const Axis<R>& axis = axis_[D - 1];
    const std::int64_t count = axis.voxels;
    const R* mask = call_.fixed_mask == nullptr ? nullptr : static_cast<const R*>(call_.fixed_mask) + row * count;
    const R* fixed = static_cast<const R*>(call_.fixed) + row * count;

    for (std::int64_t x = 0; x < count; x += lanes) {
      const Index below = load<Index>(axis.below + x) * D, above = load<Index>(axis.above + x) * D;
      const V fraction = load<V>(axis.fraction + x);
      V vector[D], coordinates[D], weight = broadcast(R(1));
      for (int d = 0; d < D; ++d) {
        const V near = gather<R, R>(vectors + d, below), far = gather<R, R>(vectors + d, above);
        vector[d] = near + fraction * (far - near);
      }
      const V along = __builtin_convertvector(count_up(), V);
      for (int i = 0; i < D; ++i) {
        const double step = call_.matrix[i * (D + 1) + D - 1];
        V position = along * static_cast<R>(step) + static_cast<R>(start[i] + step * static_cast<double>(x));
        for (int d = 0; d < D; ++d) position += static_cast<R>(call_.bend[i * D + d]) * vector[d];
        const V off = position - middle_[i];
        weight *= hold(middle_[i] + 1 - (off < 0 ? -off : off), R(0), R(1));
        coordinates[i] = position;
      }
      const Index own[D] = {};
      Position<R, D> position;
      split<R, D>(coordinates, own, position);
      moving_.fetch_ahead(batch, position);
      V slope[D], unused[D];
      const V value = moving_.template read<true>(batch, position, slope);
      if (mask != nullptr) weight *= load_some(mask + x, count - x);
      if (call_.moving_mask != nullptr) weight *= moving_mask_.template read<false>(batch, position, unused);
      add(sums + x, load_some(fixed + x, count - x), value, weight, slope);
    }
  }

  static V load_some(const R* from, std::int64_t count) {
    if (count >= lanes) return load<V>(from);
    V some{};
    for (std::int64_t l = 0; l < count; ++l) some[l] = from[l];
    return some;
  }

  KERAMORPH_INLINE void add(R* sums, V fixed, V value, V weight, const V (&slope)[D]) const {
    const auto more = [&](int quantity, V what) __attribute__((always_inline)) {
      R* at = sums + quantity * pitch_;
      store(at, load<V>(at) + what);
    };
    more(0, value);
    more(1, value * value);
    more(2, fixed * value);
    more(3, weight);
    V square{};
    for (int i = 0; i < D; ++i) {
      V push{};
      for (int d = 0; d < D; ++d) push += static_cast<R>(call_.to_push[i * D + d]) * slope[d];
      more(4 + i, push);
      more(4 + D + i, fixed * push);
      more(4 + 2 * D + i, value * push);
      square += push * push;
    }
    more(4 + 3 * D, square);
  }

  void finish(std::int64_t line, const R* sums) const {
    const Axis<R>& axis = axis_[D - 1];
    for (std::int64_t block = 0; block < axis.blocks; ++block) {
      const std::int64_t first = axis.begin(block), end = axis.begin(block + 1), at = line * axis.blocks + block;
      const auto total = [&](int quantity) {
        R sum = 0;
        for (std::int64_t i = first; i < end; ++i) sum += sums[quantity * pitch_ + i];
        return sum;
      };
      for (int k = 0; k < moment_count; ++k) static_cast<R*>(call_.moments)[at * moment_count + k] = total(k);
      static_cast<R*>(call_.weights)[at] = total(moment_count);
      for (int k = 0; k < push_count; ++k) {
        static_cast<R*>(call_.pushes)[at * push_count + k] = total(moment_count + 1 + k);
      }
    }
  }

  Blocks call_;
  Sampling sampling_;
  Sampler<R, R, D, 1> moving_, moving_mask_;
  Buffer tables_;
  Axis<R> axis_[D];
  R middle_[D];
  std::int64_t lines_ = 1, pitch_, row_;
};

}  // namespace
}  // namespace blocks

void add_blocks(const Volume& volume, const Blocks& call) {
  choose_ndim(volume.ndim, [&](auto ndim) {
    if (volume.type == Type::float64) {
      blocks::Adder<double, ndim()>(volume, call).run(volume.batch);
    } else {
      blocks::Adder<float, ndim()>(volume, call).run(volume.batch);
    }
  });
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
