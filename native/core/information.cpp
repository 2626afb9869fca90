// Mutual information of two images from a joint histogram with cubic B-spline windows, and its derivative.
//
// Intensities lie among the bins at p = 1 + (value - least) (bins - 3) / (greatest - least). A voxel at p = j + t with
// 0 <= t <= 1 counts in the bins j - 1 .. j + 2 with weights w_0(t) .. w_3(t), and a pair of voxels in 4 x 4 of them.
// Adding those to a histogram as it is would make each voxel wait for the one before: neighbours fall into overlapping
// bins. So there is a block of 16 numbers of its own for each pair (j_f, j_m), which is read and written as a whole,
// twice, for voxels in turn; blocks are spread over the bins in the end.
//
// With c the counts of N voxels, c / N = P, its margins Q_f and Q_m, and H(P) = -sum P log max(P, e), the derivatives are
//   d(H(Q_f) + H(Q_m) - H(P)) / dP_kl = -(log Q_f + log Q_m + 2) + log P + 1,
// without each 1 where the probability is below e. The weights of a voxel add up to 1 whatever its t, so that terms which
// depend on k alone, or on nothing, take no part in the derivative to the moved image: they are chosen to keep the rest
// small.
#include "measures.hpp"
#include "patterns.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {
namespace filters {
namespace {

constexpr double smallest = 1e-12;   // probability below which a bin adds nothing to an entropy: that of the loss
constexpr std::int64_t stretch = 256;  // voxels that are placed at once

template <class T>
struct FourOf;
template <>
struct FourOf<float> {
  typedef float type __attribute__((vector_size(16)));
  typedef float loose __attribute__((vector_size(16), aligned(4), may_alias));
};
template <>
struct FourOf<double> {
  typedef double type __attribute__((vector_size(32)));
  typedef double loose __attribute__((vector_size(32), aligned(8), may_alias));
};
template <class T>
using Four = typename FourOf<T>::type;

template <class T>
KERAMORPH_INLINE Four<T> load_four(const T* memory) {
  return *reinterpret_cast<const typename FourOf<T>::loose*>(memory);
}
template <class T>
KERAMORPH_INLINE void store_four(T* memory, Four<T> value) {
  *reinterpret_cast<typename FourOf<T>::loose*>(memory) = value;
}

// The four weights at t, and their derivatives.
template <class T>
KERAMORPH_INLINE Four<T> weigh(T t) {
  const Four<T> c3{T(-1.0 / 6), T(0.5), T(-0.5), T(1.0 / 6)}, c2{T(0.5), T(-1), T(0.5), T(0)};
  const Four<T> c1{T(-0.5), T(0), T(0.5), T(0)}, c0{T(1.0 / 6), T(2.0 / 3), T(1.0 / 6), T(0)};
  return ((c3 * t + c2) * t + c1) * t + c0;
}
template <class T>
KERAMORPH_INLINE Four<T> weigh_slope(T t) {
  const Four<T> c2{T(-0.5), T(1.5), T(-1.5), T(0.5)}, c1{T(1), T(-2), T(1), T(0)}, c0{T(-0.5), T(0), T(0.5), T(0)};
  return (c2 * t + c1) * t + c0;
}

// One channel of an image among the bins.
template <class T>
struct Scale {
  const T* image;
  std::int64_t step;
  T least, factor;
  std::int32_t bins;
};

// Where some voxels lie.
template <class T>
struct Places {
  std::int32_t bin[stretch];  // j - 1
  T rest[stretch];            // t
};

template <class T>
KERAMORPH_INLINE void place_one(T value, const Scale<T>& scale, std::int32_t& bin, T& rest) {
  const T position = (value - scale.least) * scale.factor;
  const std::int32_t floor = static_cast<std::int32_t>(position), last = scale.bins - 4;
  // The greatest value may be placed a rounding error too far: t is 1 there. No value may be placed outside.
  bin = floor < 0 ? 0 : floor > last ? last : floor;
  rest = position - static_cast<T>(bin);
}

template <class T>
void place(const Scale<T>& scale, std::int64_t first, std::int64_t count, Places<T>& places) {
  const T* values = scale.image + first * scale.step;
  const Scale<T> here = scale;
  if (here.step == 1) {
    // So much is computed between one stretch and the next that the processor forgets to fetch it in time.
    for (std::int64_t i = 0; i < stretch; i += 64 / static_cast<std::int64_t>(sizeof(T))) {
      KERAMORPH_PREFETCH(values + 4 * stretch + i);
    }
    KERAMORPH_INDEPENDENT
    for (std::int64_t i = 0; i < count; ++i) place_one(values[i], here, places.bin[i], places.rest[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) place_one(values[i * here.step], here, places.bin[i], places.rest[i]);
  }
}

// The four weights of some voxels, one row each.
template <class T, class W>
void weigh_all(const T* KERAMORPH_RESTRICT rest, std::int64_t count, W* KERAMORPH_RESTRICT weights) {
  KERAMORPH_INDEPENDENT
  for (std::int64_t i = 0; i < count; ++i) {
    const W t = static_cast<W>(rest[i]), u = 1 - t;
    weights[i] = u * u * u * W(1.0 / 6);
    weights[stretch + i] = (t * t * (t - 2)) * W(0.5) + W(2.0 / 3);
    weights[2 * stretch + i] = (u * u * (u - 2)) * W(0.5) + W(2.0 / 3);
    weights[3 * stretch + i] = t * t * t * W(1.0 / 6);
  }
}

// How counts lie while they are gathered: in blocks of 16, or, where those would take too much memory, in the bins.
struct Layout {
  std::int64_t bins, to_f, to_m, row, copy;

  explicit Layout(std::int64_t bins) : bins(bins), to_f((bins - 3) * 16), to_m(16), row(4), copy((bins - 3) * to_f) {
    if (bins > 64) to_f = bins, to_m = 1, row = bins, copy = bins * bins;
  }

  // Add what was gathered to the histogram.
  void spread(const double* gathered, double* histogram) const {
    if (row == bins) {
      for (std::int64_t i = 0; i < copy; ++i) histogram[i] = gathered[i] + gathered[copy + i];
      return;
    }
    for (std::int64_t i = 0; i < bins * bins; ++i) histogram[i] = 0;
    for (std::int64_t j = 0; j < bins - 3; ++j) {
      for (std::int64_t k = 0; k < bins - 3; ++k) {
        const double* block = gathered + j * to_f + k * to_m;
        for (std::int64_t a = 0; a < 4; ++a) {
          double* to = histogram + (j + a) * bins + k;
          store_four(to, load_four(to) + load_four(block + 4 * a) + load_four(block + copy + 4 * a));
        }
      }
    }
  }
};

template <class T>
void gather_counts(const Layout& layout, const Scale<T>& fixed, const Scale<T>& moved, std::int64_t first,
                   std::int64_t last, double* counts) {
  Places<T> at_f, at_m;
  double weights[4 * stretch];
  for (std::int64_t i = 0; i < 2 * layout.copy; ++i) counts[i] = 0;
  const std::int64_t row = layout.row, copy = layout.copy, to_f = layout.to_f, to_m = layout.to_m;
  for (; first < last; first += stretch) {
    const std::int64_t count = least(stretch, last - first);
    place(fixed, first, count, at_f);
    place(moved, first, count, at_m);
    weigh_all(at_f.rest, count, weights);
    for (std::int64_t i = 0; i < count; ++i) {
      double* to = counts + (i & 1) * copy + at_f.bin[i] * to_f + at_m.bin[i] * to_m;
      const Four<double> weight = weigh(static_cast<double>(at_m.rest[i]));
      for (std::int64_t a = 0; a < 4; ++a) {
        store_four(to + a * row, load_four(to + a * row) + weight * weights[a * stretch + i]);
      }
    }
  }
}

// Histogram (bins, bins), from slabs whose number depends on the sizes alone.
template <class T>
void fill_histogram(const Scale<T>& fixed, const Scale<T>& moved, std::int64_t voxels, double* histogram) {
  const Layout layout(fixed.bins);
  const std::int64_t bins = fixed.bins, cells = bins * bins, size = sizeof(double);
  // To clear and to spread the blocks is to take a small share of the time.
  const std::int64_t slab = most(most(8192, 32 * cells), (voxels + 255) / 256), slabs = (voxels + slab - 1) / slab;
  Buffer partial_space(slabs * cells * size);
  double* partial = partial_space.as<double>();
  Workspaces spaces(2 * layout.copy * size);
  parallel(slabs, 1, [&](std::int64_t first, std::int64_t last) {
    Workspaces::Lease space(spaces);
    for (std::int64_t k = first; k < last; ++k) {
      gather_counts(layout, fixed, moved, k * slab, least(voxels, (k + 1) * slab), space.as<double>());
      layout.spread(space.as<double>(), partial + k * cells);
    }
  });
  for (std::int64_t i = 0; i < cells; ++i) histogram[i] = 0;
  for (std::int64_t k = 0; k < slabs; ++k) {
    for (std::int64_t i = 0; i < cells; ++i) histogram[i] += partial[k * cells + i];
  }
}

// Entropy, and in place of each probability the derivative to it without its sign.
inline double find_entropy(double* probability, std::int64_t count) {
  double entropy = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double p = probability[i], log = std::log(p < smallest ? smallest : p > 1 ? 1.0 : p);
    entropy -= p * log;
    probability[i] = log + (p < smallest ? 0 : 1);
  }
  return entropy;
}

// Information of counts (bins, bins), which become its derivative to each probability, as far as that matters for the
// moved image. `margins` holds twice as many numbers as there are bins.
inline double find_information(std::int64_t bins, std::int64_t voxels, bool normalized, double* counts,
                               double* margins) {
  for (std::int64_t k = 0; k < 2 * bins; ++k) margins[k] = 0;
  const double share = 1 / static_cast<double>(voxels);
  for (std::int64_t k = 0; k < bins; ++k) {
    for (std::int64_t l = 0; l < bins; ++l) {
      counts[k * bins + l] *= share;
      margins[k] += counts[k * bins + l];
      margins[bins + l] += counts[k * bins + l];
    }
  }
  const double separate = find_entropy(margins, bins) + find_entropy(margins + bins, bins);
  const double together = find_entropy(counts, bins * bins);
  const double ratio = normalized ? separate / together : 1.0, scale = normalized ? 1 / together : 1.0;
  for (std::int64_t k = 0; k < bins; ++k) {
    for (std::int64_t l = 0; l < bins; ++l) {
      counts[k * bins + l] = scale * (ratio * (counts[k * bins + l] - margins[k]) - margins[bins + l]);
    }
  }
  return normalized ? ratio : separate - together;
}

// Lane k of the result is the sum of vector k.
template <class T>
KERAMORPH_INLINE Four<T> add_across(const Four<T> (&of)[4]) {
  const Four<T> a = __builtin_shufflevector(of[0], of[1], 0, 4, 1, 5) + __builtin_shufflevector(of[0], of[1], 2, 6, 3, 7);
  const Four<T> b = __builtin_shufflevector(of[2], of[3], 0, 4, 1, 5) + __builtin_shufflevector(of[2], of[3], 2, 6, 3, 7);
  return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
}

// Derivative to some voxels of the moved image, of which `slopes` (bins, bins) is that to each count.
template <class T>
void derive(const Scale<T>& fixed, const Scale<T>& moved, const T* slopes, std::int64_t first, std::int64_t last,
            T* derivative) {
  Places<T> at_f, at_m;
  T weights[4 * stretch];
  const std::int64_t bins = fixed.bins, step = moved.step;
  for (; first < last; first += stretch) {
    const std::int64_t count = least(stretch, last - first), even = (count + 3) / 4 * 4;
    place(fixed, first, count, at_f);
    place(moved, first, count, at_m);
    for (std::int64_t i = count; i < even; ++i) at_f.bin[i] = at_m.bin[i] = 0, at_f.rest[i] = at_m.rest[i] = T(0);
    weigh_all(at_f.rest, even, weights);
    T* to = derivative + first * step;
    for (std::int64_t i = 0; i < even; i += 4) {
      Four<T> product[4];
      for (std::int64_t k = 0; k < 4; ++k) {
        const T* from = slopes + at_f.bin[i + k] * bins + at_m.bin[i + k];
        Four<T> sum = weights[i + k] * load_four(from);
        for (std::int64_t a = 1; a < 4; ++a) sum += weights[a * stretch + i + k] * load_four(from + a * bins);
        product[k] = sum * weigh_slope(at_m.rest[i + k]);
      }
      const Four<T> result = add_across<T>(product) * moved.factor;
      if (step == 1 && i + 4 <= count) {
        store_four(to + i, result);
      } else {
        for (std::int64_t k = 0; k < 4 && i + k < count; ++k) to[(i + k) * step] = result[k];
      }
    }
  }
}

// Least and greatest value in each place of a row, and NaN for `taint` where one of the values is not finite.
template <class T>
void widen(const T* KERAMORPH_RESTRICT image, std::int64_t count, T* KERAMORPH_RESTRICT low, T* KERAMORPH_RESTRICT high,
           T* KERAMORPH_RESTRICT taint) {
  KERAMORPH_INDEPENDENT
  for (std::int64_t i = 0; i < count; ++i) {
    const T value = image[i];
    low[i] = value < low[i] ? value : low[i];
    high[i] = value > high[i] ? value : high[i];
    taint[i] += value * 0;
  }
}

// Range of every channel of both images in one pass: `scales` (2, channels), with a factor of NaN where an intensity is
// not finite.
template <class T>
void find_scales(const Pattern& pattern, const T* const (&images)[2], std::int64_t bins, Scale<T>* scales) {
  const std::int64_t row = pattern.row, channels = pattern.channels, kept = 6 * row;
  Buffer space(pattern.blocks * kept * static_cast<std::int64_t>(sizeof(T)));
  T* all = space.as<T>();
  parallel(pattern.blocks, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t block = first; block < last; ++block) {
      const std::int64_t end = least(pattern.elements, (block + 1) * pattern.block);
      for (int side = 0; side < 2; ++side) {
        T *low = all + block * kept + side * 3 * row, *high = low + row, *taint = high + row;
        for (std::int64_t i = 0; i < row; ++i) low[i] = high[i] = images[side][i % channels], taint[i] = T(0);
        for (std::int64_t at = block * pattern.block; at < end; at += row) {
          widen(images[side] + at, least(row, end - at), low, high, taint);
        }
      }
    }
  });
  for (int side = 0; side < 2; ++side) {
    for (std::int64_t k = 0; k < channels; ++k) {
      T low = images[side][k], high = low, taint = T(0);
      for (std::int64_t block = 0; block < pattern.blocks; ++block) {
        const T* part = all + block * kept + side * 3 * row;
        for (std::int64_t i = k; i < row; i += channels) {
          widen(part + i, 1, &low, &high, &taint);
          widen(part + row + i, 1, &low, &high, &taint);
          taint += part[2 * row + i];
        }
      }
      const T width = high - low;
      const T factor = width > 0 ? static_cast<T>(bins - 3) / width : static_cast<T>(bins - 3);
      scales[side * channels + k] = {images[side] + k, channels, low, factor + (taint + width * 0),
                                     static_cast<std::int32_t>(bins)};
    }
  }
}

template <class T>
double compare_channel(const Pattern& pattern, bool normalized, const Scale<T>& fixed, const Scale<T>& moved,
                       T* derivative) {
  const std::int64_t bins = fixed.bins, cells = bins * bins, channels = pattern.channels, step = moved.step;
  const double nothing = static_cast<double>(fixed.factor) * 0 + static_cast<double>(moved.factor) * 0;
  if (nothing != 0) {
    // Values that are not finite have no place among the bins.
    for (std::int64_t i = 0; derivative != nullptr && i < pattern.voxels; ++i) derivative[i * step] = T(nothing);
    return nothing;
  }
  Buffer space((cells + 2 * bins) * static_cast<std::int64_t>(sizeof(double)));
  double* counts = space.as<double>();
  fill_histogram(fixed, moved, pattern.voxels, counts);
  const double information = find_information(bins, pattern.voxels, normalized, counts, counts + cells);
  if (derivative == nullptr) return information;
  Buffer slope_space((cells + 4) * static_cast<std::int64_t>(sizeof(T)));
  T* slopes = slope_space.as<T>();
  const double share = 1 / (static_cast<double>(pattern.voxels) * static_cast<double>(channels));
  for (std::int64_t i = 0; i < cells; ++i) slopes[i] = static_cast<T>(counts[i] * share);
  parallel(pattern.voxels, 1 << 14, [&](std::int64_t first, std::int64_t last) {
    derive(fixed, moved, slopes, first, last, derivative);
  });
  return information;
}

}  // namespace
}  // namespace filters

void compare_information(const Volume& volume, std::int64_t bins, bool normalized, const void* fixed,
                         const void* moved, void* value, void* derivative) {
  using namespace filters;
  choose_type(volume, [&](auto one) {
    using T = decltype(one);
    const auto compare = [&](const Pattern& pattern, const T* f, const T* m, T* result) {
      const std::int64_t channels = pattern.channels;
      Buffer space(2 * channels * static_cast<std::int64_t>(sizeof(Scale<T>)));
      Scale<T>* scales = space.as<Scale<T>>();
      find_scales<T>(pattern, {f, m}, bins, scales);
      double sum = 0;
      for (std::int64_t k = 0; k < channels; ++k) {
        sum += compare_channel(pattern, normalized, scales[k], scales[channels + k], result + (result ? k : 0));
      }
      return sum / static_cast<double>(channels);
    };
    compare_entries<T>(volume, fixed, moved, value, derivative, compare);
  });
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
