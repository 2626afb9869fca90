// Mean squared difference of the self-similarity descriptors (MIND-SSC) of two images, and its derivative.
//
// The formulae are in similarities.hpp. Distances of patches are sums over boxes of squared differences of neighbours:
// all 12 of both images (4 in two dimensions) are added up in one march, and computed again whenever they are needed,
// because that takes less time than to write them to memory and to read them back. There are three marches: for the mean
// variance T, for dL/dT, and for the derivative. The last goes in chunks of planes: dL/de of a chunk is kept, its box sums
// weigh the differences of the neighbours, and those are added up at the voxels they came from. Kept are 12 and 5 numbers
// per voxel of about 20 planes. In two dimensions these are 4 and 3 for each voxel of the image.
//
// Distances are taken from the images as they are, times the square of the scale s that would bring them to variance 1.
// That s depends on the moved image leads to one more term: L stays the same if all distances and the floor of T are
// multiplied by one number, so that sum e_k dL/de_k = -floor dL/dT, and the derivative is s^2 times
//   2 sum (differences times box sums of dL/de) + 2 floor c (m - mean).
#include "measures.hpp"
#include "neighbours.hpp"
#include "patterns.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {
namespace filters {
namespace {

enum Purpose { find_typical, find_constant, find_value, find_slopes };

// What the marches share. Rows have one number for each element of a row of the image.
template <class T>
struct Sheet {
  Bounds<T> fixed, moved;
  const T *share_z, *share_y;  // 1 / number of planes and rows of a box inside the image
  T* constant;                 // c
  double* totals;              // what a march adds up, for each row of the image and each channel, `sums` numbers
};
constexpr std::int64_t sums = 2;

// Takes the sums of squares of a row, and does with them what the march is for.
template <class T, int D>
struct Describe {
  static constexpr int count = Pairs<D>::count;
  Purpose purpose;
  Extent extent;
  Sheet<T> sheet;
  Ring<T> ring;

  void operator()(std::int64_t z, std::int64_t y, std::int64_t tile, std::int64_t at, std::int64_t length,
                  T* rows, std::int64_t pitch) const {
    double* total = sheet.totals + ((z * extent.count[1] + y) * extent.tiles + tile) * extent.channels * sums;
    for (std::int64_t k = 0; k < extent.channels * sums; ++k) total[k] = 0;
    const T across = sheet.share_z[z] * sheet.share_y[y];
    const T* moved = rows + count * pitch;
    Settled<T> f, m;
    Gathered<T> gathered;
    settle<T, count>(moved, pitch, sheet.moved, at, length, across, m);
    if (purpose == find_constant && !is_clipped(m, at, length)) return;
    settle<T, count>(rows, pitch, sheet.fixed, at, length, across, f);
    if (purpose == find_typical) {
      add(f.spread, at, length, 0, total);
      add(m.spread, at, length, 1, total);
      return;
    }
    gather_differences<T, count>(rows, moved, pitch, length, f, m, gathered);
    if (purpose == find_slopes) {
      lead_back<T, count>(rows, moved, pitch, at, length, sheet.moved, sheet.constant, m, gathered,
                          ring.at(0, z, y) + at, ring.plane);
    }
    add(gathered.squares, at, length, 0, total);
    if (purpose != find_constant) return;
    for (std::int64_t i = 0; i < length; ++i) {
      const T share = m.spread[i] < sheet.moved.lower[at + i]   ? T(variance_range)
                      : m.spread[i] > sheet.moved.upper[at + i] ? T(1 / variance_range)
                                                                : T(0);
      gathered.bend[i] *= share;
    }
    add(gathered.bend, at, length, 1, total);
  }

  // Whether a variance that is not 0 is out of its bounds: only then T takes part in the descriptors.
  bool is_clipped(const Settled<T>& m, std::int64_t at, std::int64_t length) const {
    const T *lower = sheet.moved.lower + at, *upper = sheet.moved.upper + at;
    int clipped = 0;
    for (std::int64_t i = 0; i < length; ++i) {
      clipped |= m.spread[i] != 0 && !(m.spread[i] >= lower[i] && m.spread[i] <= upper[i]);
    }
    return clipped != 0;
  }

  void add(const T* values, std::int64_t at, std::int64_t length, std::int64_t which, double* total) const {
    const std::int64_t channels = extent.channels;
    if (channels == 1) {
      double sum = 0;
      for (std::int64_t i = 0; i < length; ++i) sum += static_cast<double>(values[i]);
      total[which] += sum;
      return;
    }
    for (std::int64_t i = 0; i < length; ++i) {
      total[(at + i) % channels * sums + which] += static_cast<double>(values[i]);
    }
  }
};

// Takes the box sums of dL/de: what each neighbour gets, as maps of the place of the pair.
template <class T, int D>
struct Weigh {
  static constexpr Pairs<D> pairs{};
  static constexpr int count = Pairs<D>::count, neighbours = Pairs<D>::neighbours;
  const T* moved;
  Extent extent;
  Ring<T> ring;

  void operator()(std::int64_t z, std::int64_t y, std::int64_t, std::int64_t at, std::int64_t length, const T* rows,
                  std::int64_t pitch) const {
    using V = Pack<T>;
    constexpr std::int64_t wide = lanes<T>;
    std::int64_t i = 0;
    T* to = ring.at(0, z, y) + at;
    for (; i + wide <= length; i += wide) weigh<V>(z, y, at + i, rows + i, pitch, to + i);
    for (; i < length; ++i) weigh<T>(z, y, at + i, rows + i, pitch, to + i);
  }

  template <class V>
  KERAMORPH_INLINE void weigh(std::int64_t z, std::int64_t y, std::int64_t i, const T* rows, std::int64_t pitch,
                              T* to) const {
    V value[neighbours], sum[neighbours] = {};
    load_neighbours<V, D>(moved, extent, z, y, i, value);
    for (int k = 0; k < count; ++k) {
      const V share = load<V>(rows + k * pitch) * (value[pairs.first[k]] - value[pairs.second[k]]);
      sum[pairs.first[k]] = sum[pairs.first[k]] + share;
      sum[pairs.second[k]] = sum[pairs.second[k]] - share;
    }
    for (int n = 0; n < neighbours; ++n) store<V>(to + n * ring.plane, sum[n]);
  }
};

// The voxels first <= k < last whose neighbour before or behind them is voxel `at`.
struct Origins {
  std::int64_t first, last;

  Origins(bool forward, std::int64_t at, std::int64_t dilation, std::int64_t count) {
    first = forward ? at - dilation : at + dilation, last = first + 1;
    // At its edge a voxel stands for all that lie beyond.
    if (forward && at == count - 1) last = count;
    if (!forward && at == 0) first = 0;
    first = most(first, 0), last = least(last, count);
  }
};

template <class T, int D>
class SelfSimilarity {
 public:
  SelfSimilarity(const Volume& volume, std::int64_t radius, std::int64_t dilation, const T* fixed, const T* moved,
                 T* derivative)
      : pattern_(lay_out_rows(volume)), fixed_(fixed), moved_(moved), derivative_(derivative) {
    const std::int64_t edges[max_ndim] = {2 * radius + 1, 2 * radius + 1, 2 * radius + 1};
    boxes_ = lay_out(volume, edges);
    for (int d = 0; d < 3; ++d) extent_.count[d] = boxes_.count[d];
    radius_ = boxes_.width[0] / 2;
    extent_.channels = boxes_.channels;
    extent_.row = boxes_.row;
    extent_.plane = boxes_.row * boxes_.count[1];
    extent_.dilation = least(dilation, most(most(extent_.count[0], extent_.count[1]), extent_.count[2]));
    extent_.step = extent_.dilation * extent_.channels;
    extent_.tiles = count_tiles(boxes_);
    lay_out_sheet();
  }

  double run() {
    spread_scales();
    march(find_typical);
    for (std::int64_t k = 0; k < extent_.channels; ++k) {
      spread_bounds(lower_f, k, 0);
      spread_bounds(lower_m, k, 1);
    }
    if (derivative_ == nullptr) {
      march(find_value);
    } else {
      march(find_constant);
      for (std::int64_t k = 0; k < extent_.channels; ++k) {
        const double constant = add_up(k, 1) / static_cast<double>(pattern_.voxels);
        spread(constants, k, constant);
        spread(pulls, k, variance_floor * constant * squares_[k]);
      }
      differentiate();
    }
    double value = 0;
    for (std::int64_t k = 0; k < extent_.channels; ++k) value += add_up(k, 0);
    return value / static_cast<double>(pattern_.elements * count);
  }

 private:
  static constexpr int count = Pairs<D>::count, maps = 2 * D;
  enum Kept { share_f, lower_f, upper_f, share_m, lower_m, upper_m, constants, pulls, means, rows_kept };

  T* kept(int which) const { return row_space_.as<T>() + which * (padded<T>(extent_.row) + segment); }

  void spread(int which, std::int64_t channel, double value) const {
    for (std::int64_t i = channel; i < extent_.row; i += extent_.channels) kept(which)[i] = static_cast<T>(value);
  }

  void spread_bounds(int lower, std::int64_t channel, std::int64_t image) const {
    const double typical = add_up(channel, image) / static_cast<double>(pattern_.voxels) + variance_floor;
    spread(lower, channel, variance_range * typical);
    spread(lower + 1, channel, typical / variance_range);
  }

  double add_up(std::int64_t channel, std::int64_t which) const {
    double sum = 0;
    for (std::int64_t line = 0; line < extent_.count[0] * extent_.count[1] * extent_.tiles; ++line) {
      sum += sheet_.totals[(line * extent_.channels + channel) * sums + which];
    }
    return sum;
  }

  void lay_out_sheet() {
    const std::int64_t lines = extent_.count[0] * extent_.count[1] * extent_.tiles, size = sizeof(T);
    row_space_.grow((rows_kept * (padded<T>(extent_.row) + segment) + extent_.count[0] + extent_.count[1]) * size);
    for (T* each = kept(0); each < kept(rows_kept); ++each) *each = T(0);
    index_space_.grow(2 * extent_.row * static_cast<std::int64_t>(sizeof(std::int32_t)));
    std::int32_t *left = index_space_.as<std::int32_t>(), *right = left + extent_.row;
    for (std::int64_t i = 0; i < extent_.row; ++i) {
      const std::int64_t voxel = i / extent_.channels, channel = i % extent_.channels;
      const std::int64_t other = behind(voxel, extent_.dilation, extent_.count[2]);
      left[i] = static_cast<std::int32_t>(before(voxel, extent_.dilation) * extent_.channels + channel);
      right[i] = static_cast<std::int32_t>(other * extent_.channels + channel);
    }
    extent_.before = left;
    extent_.behind = right;
    total_space_.grow((lines * sums + 1) * extent_.channels * static_cast<std::int64_t>(sizeof(double)));
    T* shares = kept(rows_kept);
    count_inside(boxes_.count[0], boxes_.width[0], 1, shares);
    count_inside(boxes_.count[1], boxes_.width[1], 1, shares + boxes_.count[0]);
    sheet_ = {{kept(share_f), kept(lower_f), kept(upper_f)}, {kept(share_m), kept(lower_m), kept(upper_m)},
              shares, shares + boxes_.count[0], kept(constants), total_space_.as<double>()};
    squares_ = sheet_.totals + lines * sums * extent_.channels;
  }

  void spread_scales() {
    Buffer space(extent_.channels * static_cast<std::int64_t>(sizeof(Moments)));
    Moments* moments = space.as<Moments>();
    sum_moments(pattern_, fixed_, moved_, moments);
    count_inside(boxes_.count[2], boxes_.width[2], extent_.channels, kept(share_f));
    count_inside(boxes_.count[2], boxes_.width[2], extent_.channels, kept(share_m));
    for (std::int64_t k = 0; k < extent_.channels; ++k) {
      const Levels levels = find_levels(moments[k], pattern_.voxels);
      squares_[k] = levels.scale_m * levels.scale_m;
      spread(means, k, moments[k].origin_m + levels.mean_m);
      for (std::int64_t i = k; i < extent_.row; i += extent_.channels) {
        kept(share_f)[i] *= static_cast<T>(levels.scale_f * levels.scale_f);
        kept(share_m)[i] *= static_cast<T>(squares_[k]);
      }
    }
  }

  void march(Purpose purpose) const { march(purpose, 0, extent_.count[0], Ring<T>{}); }

  // Describe the planes first .. last.
  void march(Purpose purpose, std::int64_t first, std::int64_t last, const Ring<T>& ring) const {
    const Squares<T, D> squares{fixed_, moved_, extent_};
    sum_tiles<T, 2 * count>(boxes_, first, last, squares, Describe<T, D>{purpose, extent_, sheet_, ring});
  }

  void differentiate() const {
    const std::int64_t planes = extent_.count[0], plane = Ring<T>::spread(extent_.plane), row = extent_.row;
    const std::int64_t chunk = most(16, 4 * radius_), dilation = least(extent_.dilation, planes);
    Ring<T> slopes{nullptr, count, least(planes, chunk + 2 * radius_), plane, row};
    Ring<T> shares{nullptr, maps, least(planes, chunk + radius_ + 2 * dilation), plane, row};
    Lasting space((slopes.elements() + shares.elements()) * static_cast<std::int64_t>(sizeof(T)));
    slopes.memory = space.as<T>();
    shares.memory = slopes.memory + slopes.elements();
    // Planes that are described, weighed and finished.
    for (std::int64_t described = 0, weighed = 0, finished = 0; finished < planes;) {
      const std::int64_t next = least(described + chunk, planes), whole = next == planes ? planes : next - radius_;
      march(find_slopes, described, next, slopes);
      described = next;
      if (whole > weighed) {
        const Weigh<T, D> sink{moved_, extent_, shares};
        sum_tiles<T, count>(boxes_, weighed, whole, RingValues<T, count>{slopes}, sink);
        weighed = whole;
      }
      const std::int64_t end = weighed == planes ? planes : weighed - dilation;
      if (end > finished) {
        finish(finished, end, shares);
        finished = end;
      }
    }
  }

  // Add up at each voxel of the planes first .. last what it gets as a neighbour.
  void finish(std::int64_t first, std::int64_t last, const Ring<T>& shares) const {
    const std::int64_t rows = extent_.count[1];
    const T factor = static_cast<T>(4 / static_cast<double>(pattern_.elements * count));
    parallel((last - first) * rows, 16, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t line = from; line < to; ++line) {
        const std::int64_t z = first + line / rows, y = line % rows;
        T* result = derivative_ + z * extent_.plane + y * extent_.row;
        const T* m = moved_ + z * extent_.plane + y * extent_.row;
        const T *pull = kept(pulls), *mean = kept(means);
        KERAMORPH_INDEPENDENT
        for (std::int64_t i = 0; i < extent_.row; ++i) result[i] = pull[i] * (m[i] - mean[i]);
        add_along(shares.at(2 * D - 2, z, y), shares.at(2 * D - 1, z, y), result);
        for (int forward = 0; forward < 2; ++forward) {
          const Origins origins(forward == 1, y, extent_.dilation, rows);
          for (std::int64_t k = origins.first; k < origins.last; ++k) add(shares.at(2 * D - 4 + forward, z, k), result);
          if (D == 2) continue;
          const Origins planes(forward == 1, z, extent_.dilation, extent_.count[0]);
          for (std::int64_t k = planes.first; k < planes.last; ++k) add(shares.at(forward, k, y), result);
        }
        for (std::int64_t i = 0; i < extent_.row; ++i) result[i] *= factor;
      }
    });
  }

  // What comes from voxels behind and before each one in its row.
  void add_along(const T* KERAMORPH_RESTRICT backward, const T* KERAMORPH_RESTRICT forward,
                 T* KERAMORPH_RESTRICT sum) const {
    const std::int64_t row = extent_.row, channels = extent_.channels, step = least(extent_.step, row);
    for (std::int64_t i = 0; i < row - step; ++i) sum[i] += backward[i + step];
    for (std::int64_t i = step; i < row; ++i) sum[i] += forward[i - step];
    for (std::int64_t i = 0; i < step; ++i) sum[i % channels] += backward[i];
    for (std::int64_t i = row - step; i < row; ++i) sum[row - channels + i % channels] += forward[i];
  }

  void add(const T* KERAMORPH_RESTRICT more, T* KERAMORPH_RESTRICT sum) const {
    for (std::int64_t i = 0; i < extent_.row; ++i) sum[i] += more[i];
  }

  Pattern pattern_;
  const T *fixed_, *moved_;
  T* derivative_;
  Boxes boxes_;
  Extent extent_;
  Sheet<T> sheet_;
  std::int64_t radius_;
  double* squares_;  // square of the moved image's scale in each channel
  Buffer row_space_, total_space_, index_space_;
};

}  // namespace
}  // namespace filters

void compare_self_similarities(const Volume& volume, std::int64_t radius, std::int64_t dilation, const void* fixed,
                               const void* moved, void* value, void* derivative) {
  using namespace filters;
  choose_type(volume, [&](auto one) {
    using T = decltype(one);
    const auto compare = [&](const Pattern&, const T* f, const T* m, T* result) {
      if (volume.ndim == 3) return SelfSimilarity<T, 3>(volume, radius, dilation, f, m, result).run();
      return SelfSimilarity<T, 2>(volume, radius, dilation, f, m, result).run();
    };
    compare_entries<T>(volume, fixed, moved, value, derivative, compare);
  });
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
