// Local correlation of two images and its derivative, fused, at a cost that does not depend on the window.
//
// Boxes x around the voxels hold n(x) voxels. With f, m the images (shifted and scaled), E the mean over a box,
//   r = E[fm] - E[f] E[m],   v_f = E[ff] - E[f]^2,   v_m = E[mm] - E[m]^2,   c = c(r, v_f, v_m),
// the similarity is S = sum_x w(x) c(x) / total. A voxel i inside box x changes r by (f_i - E[f]) / n and v_m by
// 2 (m_i - E[m]) / n per change of m_i, so that with p = dc/dr and q = -2 dc/dv_m
//   total dS/dm_i = sum over boxes x that hold i of  w/n (p (f_i - E[f]) - q (m_i - E[m]))
//                 = f_i A_i - m_i B_i - C_i,
// where A, B, C are the box sums of the maps  a = w p / n,  b = w q / n,  a E[f] - b E[m]: a box holds a voxel if and
// only if the box around the voxel holds its centre. The correlations, and what they give (u = v + e):
//   form 0   c = r^2 / (u_f u_m),              p = 2 r / (u_f u_m),            q = p r / u_m
//   form 1   c = r / sqrt(u_f u_m),            p = 1 / sqrt(u_f u_m),          q = p r / u_m
//   form 2   as form 0 with r + e sign(r) for r.
// Each obeys q = p r / u_m. The curvature is the box sum of 2 w / (n u_m), over the total.
//
// Forms 0 and 1 first bring m to mean 0 and variance 1: m' = (m - mean) / s over N voxels. Since S does not change with
// an offset, the derivative to m is (g'_i - m'_i / N sum_j g'_j m'_j) / s for the derivative g' to m', and that sum
// needs no pass of its own: sum_j g'_j m'_j = sum_x w (p r - q v_m) / total.
#include <cmath>

#include "boxes.hpp"
#include "levels.hpp"
#include "measures.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

#include "functions.inc"

namespace filters {
namespace {

enum Sums { weighted, weight_here, weight_possible, stretch, sums_per_row };

// Rows of one line of boxes: sums come in where the terms of the totals go out.
template <class T>
struct Line {
  T *f, *m, *ff, *mm, *fm;
  const T *weight, *share;  // share: 1 / number of voxels along the last axis
  T share_across, floor;
  T *a, *b, *c, *d;
  std::int64_t count;
};

// The formulae above, for a line. `Maps` 0: the value alone, 1: with the derivative, 2: with the curvature.
template <class T, int Form, int Maps>
void correlate(const Line<T>& line) {
  T *KERAMORPH_RESTRICT f = line.f, *KERAMORPH_RESTRICT m = line.m, *KERAMORPH_RESTRICT ff = line.ff;
  T *KERAMORPH_RESTRICT mm = line.mm, *KERAMORPH_RESTRICT fm = line.fm;
  const T *KERAMORPH_RESTRICT weights = line.weight, *KERAMORPH_RESTRICT shares = line.share;
  T *KERAMORPH_RESTRICT a = line.a, *KERAMORPH_RESTRICT b = line.b;
  T *KERAMORPH_RESTRICT c = line.c, *KERAMORPH_RESTRICT d = line.d;
  const T across = line.share_across, floor = line.floor;
  KERAMORPH_INDEPENDENT
  for (std::int64_t i = 0; i < line.count; ++i) {
    const T share = shares[i] * across, mean_f = f[i] * share, mean_m = m[i] * share;
    const T raw_f = ff[i] * share - mean_f * mean_f, raw_m = mm[i] * share - mean_m * mean_m;
    // Rounding can take a variance below zero; NaN stays NaN.
    const T v_f = raw_f > 0 ? raw_f : raw_f * 0, v_m = raw_m > 0 ? raw_m : raw_m * 0;
    T r = fm[i] * share - mean_f * mean_m;
    if (Form == 2) r = r < 0 ? r - floor : r + floor;
    const T over_f = 1 / (v_f + floor), over_m = 1 / (v_m + floor);
    const T possible = Form == 2 ? 1 - floor * over_f : T(1);
    const T w = weights[i] * possible;
    const T p = Form == 1 ? std::sqrt(over_f * over_m) : 2 * r * over_f * over_m;
    const T q = Form != 2 && !(raw_m > 0) ? raw_m * 0 : p * r * over_m;
    T value = Form == 1 ? p * r : p * r / 2;
    // Without the noise in it, rounding can take a correlation past its end.
    if (Form != 2) value = value > 1 ? T(1) : value;
    if (Form == 1) value = value < -1 ? T(-1) : value;
    if (Maps > 0) {
      const T to_f = w * p * share, to_m = w * q * share;
      a[i] = to_f;
      b[i] = to_m;
      c[i] = to_f * mean_f - to_m * mean_m;
    }
    if (Maps > 1) d[i] = 2 * w * share * over_m;
    f[i] = w * value;
    m[i] = w;
    ff[i] = possible;
    mm[i] = w * (p * r - q * v_m);
  }
}

// Sum of a row's elements i = channel, channel + step, ... in double precision.
template <class T>
double add_up(const T* row, std::int64_t count, std::int64_t channel, std::int64_t step) {
  double part[8] = {};
  std::int64_t i = channel;
  if (step == 1) {
    for (; i + 8 <= count; i += 8) {
      for (int k = 0; k < 8; ++k) part[k] += static_cast<double>(row[i + k]);
    }
  }
  double sum = ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
  for (; i < count; i += step) sum += static_cast<double>(row[i]);
  return sum;
}

// An image, and what to subtract and multiply by, one for each element of a row.
template <class T>
struct Scaled {
  const T *image, *shift, *scale;
};

template <class T>
struct Moments {
  Scaled<T> fixed, moved;
  std::int64_t rows, row;

  template <class V>
  KERAMORPH_INLINE auto column(std::int64_t z, std::int64_t i) const {
    const std::int64_t step = row, next = rows * row;
    const T *f = fixed.image + z * next + i, *m = moved.image + z * next + i;
    const V shift_f = load<V>(fixed.shift + i), shift_m = load<V>(moved.shift + i);
    const V scale_f = load<V>(fixed.scale + i), scale_m = load<V>(moved.scale + i);
    return [=](std::int64_t y, V(&quantity)[5]) {
      KERAMORPH_PREFETCH(f + y * step + next);
      KERAMORPH_PREFETCH(m + y * step + next);
      const V a = (load<V>(f + y * step) - shift_f) * scale_f, b = (load<V>(m + y * step) - shift_m) * scale_m;
      quantity[0] = a;
      quantity[1] = b;
      quantity[2] = a * a;
      quantity[3] = b * b;
      quantity[4] = a * b;
    };
  }
};

// Turns moments into maps, and keeps the totals of each line.
template <class T>
struct Correlate {
  void (*formulae)(const Line<T>&);
  const T *weight, *ones, *share;
  const T *share_z, *share_y;
  T* maps;
  double* totals;
  std::int64_t planes, rows, row, channels, map_plane;
  T floor;
  int kept_maps;
  bool stretches;

  void operator()(std::int64_t z, std::int64_t y, T* sums, std::int64_t pitch) const {
    const std::int64_t here = z * rows + y, at = here * row;
    const T* w = weight == nullptr ? ones : weight + at;
    const auto map = [&](int k) { return k < kept_maps ? maps + (k * planes + z) * map_plane + y * row : nullptr; };
    formulae({sums, sums + pitch, sums + 2 * pitch, sums + 3 * pitch, sums + 4 * pitch, w, share,
              share_z[z] * share_y[y], floor, map(0), map(1), map(2), map(3), row});
    double* total = totals + here * (stretch + channels);
    for (int k = 0; k < stretch; ++k) total[k] = add_up(sums + k * pitch, row, 0, 1);
    if (!stretches) return;
    for (std::int64_t k = 0; k < channels; ++k) total[stretch + k] = add_up(sums + 3 * pitch, row, k, channels);
  }
};

template <class T, int Maps>
struct MapValues {
  const T* maps;
  std::int64_t planes, row, map_plane;

  template <class V>
  KERAMORPH_INLINE auto column(std::int64_t z, std::int64_t i) const {
    const T* at = maps + z * map_plane + i;
    const std::int64_t step = row, next = map_plane, size = planes * map_plane;
    return [=](std::int64_t y, V(&quantity)[Maps]) {
      for (int q = 0; q < Maps; ++q) {
        KERAMORPH_PREFETCH(at + q * size + y * step + next);
        quantity[q] = load<V>(at + q * size + y * step);
      }
    };
  }
};

// Puts the box sums of the maps together.
template <class T>
struct Derive {
  Scaled<T> fixed, moved;
  const T *stretch, *factor, *factor_curvature;  // one for each element of a row
  T *derivative, *curvature;
  std::int64_t rows, row;

  void operator()(std::int64_t z, std::int64_t y, T* sums, std::int64_t pitch) const {
    const std::int64_t at = (z * rows + y) * row;
    const T *KERAMORPH_RESTRICT f = fixed.image + at, *KERAMORPH_RESTRICT m = moved.image + at;
    T* KERAMORPH_RESTRICT result = derivative + at;
    const T *a = sums, *b = sums + pitch, *c = sums + 2 * pitch, *d = sums + 3 * pitch;
    KERAMORPH_INDEPENDENT
    for (std::int64_t i = 0; i < row; ++i) {
      const T one = (f[i] - fixed.shift[i]) * fixed.scale[i], other = (m[i] - moved.shift[i]) * moved.scale[i];
      result[i] = factor[i] * (one * a[i] - other * (b[i] + stretch[i]) - c[i]);
    }
    if (curvature == nullptr) return;
    T* KERAMORPH_RESTRICT bend = curvature + at;
    for (std::int64_t i = 0; i < row; ++i) bend[i] = factor_curvature[i] * d[i];
  }
};

template <class T>
struct Request {
  int form;
  double floor, least_share;
  const T *fixed, *moved, *weight;
  double* similarity;
  T *derivative, *curvature;
};

template <class T>
auto choose(int form, int maps) -> void (*)(const Line<T>&) {
  static constexpr void (*table[3][3])(const Line<T>&) = {
      {correlate<T, 0, 0>, correlate<T, 0, 1>, correlate<T, 0, 2>},
      {correlate<T, 1, 0>, correlate<T, 1, 1>, correlate<T, 1, 2>},
      {correlate<T, 2, 0>, correlate<T, 2, 1>, correlate<T, 2, 2>}};
  return table[form][maps];
}

// Everything that is needed beside the images, laid out once for all entries of a batch.
template <class T>
class Comparison {
 public:
  Comparison(const Boxes& boxes, const Request<T>& request)
      : boxes_(boxes),
        request_(request),
        elements_(boxes.count[0] * boxes.count[1] * boxes.row),
        map_plane_(padded<T>(boxes.count[1] * boxes.row)),
        maps_(request.derivative == nullptr ? 0 : request.curvature == nullptr ? 1 : 2),
        map_space_((maps_ > 0 ? maps_ + 2 : 0) * boxes.count[0] * map_plane_ * static_cast<std::int64_t>(sizeof(T))) {
    const std::int64_t row = boxes.row, lines = boxes.count[0] * boxes.count[1];
    total_space_.grow(lines * (stretch + boxes.channels) * static_cast<std::int64_t>(sizeof(double)));
    row_space_.grow((rows_kept * padded<T>(row) + boxes.count[0] + boxes.count[1]) *
                    static_cast<std::int64_t>(sizeof(T)));
    for (std::int64_t i = 0; i < row; ++i) kept(ones)[i] = T(1);
    count_inside(boxes.count[0], boxes.width[0], 1, kept(rows_kept));
    count_inside(boxes.count[1], boxes.width[1], 1, kept(rows_kept) + boxes.count[0]);
    count_inside(boxes.count[2], boxes.width[2], boxes.channels, kept(share));
  }

  void run(std::int64_t entry) const {
    const std::int64_t row = boxes_.row, rows = boxes_.count[1], lines = boxes_.count[0] * rows;
    const std::int64_t channels = boxes_.channels, at = entry * elements_;
    const bool standardise = request_.form != 2;
    const Scaled<T> fixed{request_.fixed + at, kept(shift_f), kept(scale_f)};
    const Scaled<T> moved{request_.moved + at, kept(shift_m), kept(scale_m)};
    measure(fixed.image, lines, row, channels, standardise, kept(shift_f), kept(scale_f));
    measure(moved.image, lines, row, channels, standardise, kept(shift_m), kept(scale_m));

    const Moments<T> moments{fixed, moved, rows, row};
    const T* shares = kept(rows_kept);
    const Correlate<T> correlation{choose<T>(request_.form, maps_),
                                   request_.weight == nullptr ? nullptr : request_.weight + at,
                                   kept(ones), kept(share), shares, shares + boxes_.count[0],
                                   map_space_.template as<T>(), total_space_.template as<double>(),
                                   boxes_.count[0], rows, row, channels, map_plane_,
                                   static_cast<T>(request_.floor), maps_ > 0 ? maps_ + 2 : 0,
                                   standardise && maps_ > 0};
    sum_boxes<T, 5>(boxes_, moments, correlation);
    finish(entry, lines);
    if (maps_ == 0) return;

    const Derive<T> result{fixed, moved, kept(stretches), kept(factors), kept(factors_curvature),
                           request_.derivative + at, maps_ > 1 ? request_.curvature + at : nullptr, rows, row};
    if (maps_ == 1) {
      sum_boxes<T, 3>(boxes_, MapValues<T, 3>{map_space_.template as<T>(), boxes_.count[0], row, map_plane_}, result);
    } else {
      sum_boxes<T, 4>(boxes_, MapValues<T, 4>{map_space_.template as<T>(), boxes_.count[0], row, map_plane_}, result);
    }
  }

 private:
  enum Kept { shift_f, scale_f, shift_m, scale_m, ones, share, stretches, factors, factors_curvature, rows_kept };
  T* kept(int which) const { return row_space_.as<T>() + which * padded<T>(boxes_.row); }

  // The similarity, and the factors of the derivative, from the totals of the lines.
  void finish(std::int64_t entry, std::int64_t lines) const {
    const std::int64_t channels = boxes_.channels, fields = stretch + channels;
    const double* totals = total_space_.as<double>();
    double sum[stretch] = {};
    for (std::int64_t line = 0; line < lines; ++line) {
      for (int k = 0; k < stretch; ++k) sum[k] += totals[line * fields + k];
    }
    const double floor = request_.least_share * sum[weight_possible];
    const double total = sum[weight_here] < floor ? floor : sum[weight_here];
    request_.similarity[entry] = sum[weighted] / total;
    if (maps_ == 0) return;
    const double voxels = static_cast<double>(elements_ / channels);
    for (std::int64_t k = 0; k < channels; ++k) {
      double along = 0;
      if (request_.form != 2) {
        for (std::int64_t line = 0; line < lines; ++line) along += totals[line * fields + stretch + k];
      }
      for (std::int64_t i = k; i < boxes_.row; i += channels) {
        const double scale = static_cast<double>(kept(scale_m)[i]);
        kept(stretches)[i] = static_cast<T>(along / voxels);
        kept(factors)[i] = static_cast<T>(scale / total);
        kept(factors_curvature)[i] = static_cast<T>(scale * scale / total);
      }
    }
  }

  Boxes boxes_;
  Request<T> request_;
  std::int64_t elements_, map_plane_;
  int maps_;
  Lasting map_space_;
  Buffer total_space_, row_space_;
};

template <class T>
void compare(const Volume& volume, const std::int64_t* size, const Request<T>& request) {
  const Comparison<T> comparison(lay_out(volume, size), request);
  for (std::int64_t entry = 0; entry < volume.batch; ++entry) comparison.run(entry);
}

}  // namespace
}  // namespace filters

void lncc(const Volume& volume, const std::int64_t* size, int form, double floor, double least, const void* fixed,
          const void* moved, const void* weight, double* similarity, void* derivative, void* curvature) {
  if (filters::is_empty(volume)) {
    for (std::int64_t entry = 0; entry < volume.batch; ++entry) similarity[entry] = 0;
    return;
  }
  const auto request = [&](auto one) {
    using T = decltype(one);
    filters::compare<T>(volume, size, {form, floor, least, static_cast<const T*>(fixed),
                                       static_cast<const T*>(moved), static_cast<const T*>(weight), similarity,
                                       static_cast<T*>(derivative), static_cast<T*>(curvature)});
  };
  volume.type == Type::float64 ? request(1.0) : request(1.0f);
}

void compare_locally(const Volume& volume, std::int64_t width, bool squared, const void* fixed, const void* moved,
                     void* value, void* derivative) {
  constexpr double floor = 1e-5;  // that of `keramorph.losses.LNCC`
  const std::int64_t size[max_ndim] = {width, width, width};
  Buffer space(volume.batch * static_cast<std::int64_t>(sizeof(double)));
  double* similarity = space.as<double>();
  lncc(volume, size, squared ? 0 : 1, floor, 0, fixed, moved, nullptr, similarity, derivative, nullptr);
  for (std::int64_t entry = 0; entry < volume.batch; ++entry) {
    if (volume.type == Type::float64) {
      static_cast<double*>(value)[entry] = similarity[entry];
    } else {
      static_cast<float*>(value)[entry] = static_cast<float>(similarity[entry]);
    }
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
