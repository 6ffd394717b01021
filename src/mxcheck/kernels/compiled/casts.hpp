// The casts of mxcheck/kernels/eager.py and real_scaled.py, compiled. Formats, scale rules and policies come as
// data (`Plan`), so a new format needs no line here. The same bits as eager's, whatever the caller's thread does
// with subnormal numbers or roundings; how they are defined is said in mxcheck/formats/spec.py.
//
// A block's scale follows from the bits of amax. Then every element is rounded by one addition in fp32: with m
// the magnitude in units of the scale and 2^e its binade, but no lower than that of the format's least normal
// number, the sum of m and c = 2^(e + 23 - mantissa bits) is rounded by the processor to a whole number of steps,
// which are the low bits of the sum: steps = sum - c as integers. They give the code and the value alike.

#include <cfenv>
#include <cstdint>
#include <cstring>
#include <exception>
#include <thread>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Before a loop: what it writes is not what it reads.
#if defined(__clang__)
#define MX_VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#else
#define MX_VECTORIZE _Pragma("GCC ivdep")
#endif

namespace {

constexpr int32_t kSign = INT32_MIN, kMagnitude = 0x7FFFFFFF, kInf = 0x7F800000, kFraction = 0x007FFFFF;
constexpr int32_t kNaN = 0x7FC00000, kE8M0NaN = 255, kBits = 23;
// fp32 numbers of a tile: with what is computed of them they stay in a core's first cache.
constexpr int64_t kTile = 512;
// Lanes of a tile whose blocks do not run along the last axis.
constexpr int64_t kLanes = 256;
// Elements that are worth a thread.
constexpr int64_t kThread = 1 << 17;
// Most threads of a call.
constexpr int64_t kParts = 256;
// Bytes from which a result does not fit into a cache, and is better written past it.
constexpr int64_t kStream = 1 << 23;

enum Rounding { kEven, kAway, kZero, kStochastic };
enum Scale { kE8M0, kE4M3, kRow, kTensor };
enum Dtype { kFloat32, kBFloat16, kFloat16 };

template <class To, class From>
inline To as(From from) {
  static_assert(sizeof(To) == sizeof(From), "only bits of one length");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline int32_t bits(float x) { return as<int32_t>(x); }
inline float number(int32_t x) { return as<float>(x); }
template <class T>
inline T least(T a, T b) { return a < b ? a : b; }
template <class T>
inline T most(T a, T b) { return a > b ? a : b; }

}  // namespace

extern "C" {

// An element format. Fields of mxcheck/kernels/compiled/plans.py, in their order; fp32 numbers are their bits.
struct MxElement {
  int32_t mantissa_bits, min_normal, max_value;
  int32_t flip, add;     // what a sign does to a magnitude code: (code ^ flip) + add
  int32_t zero;          // added to a value: +0 where zeros have no sign, else -0
  int32_t nan_above;     // a magnitude above has the code below: infinity, or nothing
  int32_t nan_code;
};

struct MxPlan {
  MxElement element, block_scale;
  int32_t rounding, scale;
  int64_t block;         // elements that share a scale; 0: the axis, or the tensor
  float factor;          // scale rule: amax times this ...
  int32_t emax;          // ... its exponent minus this ...
  int32_t above;         // ... plus one where its fraction is above this
  int32_t poisoned;      // scale code of a block with NaN or Inf in its amax
  int32_t amax_below;    // magnitudes above count as 0 in amax: infinity where it ignores NaN
  float divisor;         // scale = amax / divisor, where it is no power of two
  float block_divisor;   // NVFP4: the largest element
};

}  // extern "C"

namespace {

// ---- What every cast is made of: loops that a compiler vectorizes.

inline int32_t from_half(uint16_t half) {
  const int32_t magnitude = half & 0x7FFF, wide = magnitude << 13;
  const int32_t normal = magnitude >= 0x7C00 ? wide | kInf : wide + (112 << kBits);
  const int32_t subnormal = bits(static_cast<float>(magnitude) * 0x1p-24f);
  return (magnitude < 0x400 ? subnormal : normal) | (static_cast<int32_t>(half & 0x8000) << 16);
}

inline uint16_t to_half(float x) {
  constexpr int32_t kLeast = (127 - 14) << kBits, kPast = (127 + 16) << kBits;
  const int32_t magnitude = bits(x) & kMagnitude, m = least(magnitude, kPast);
  const int32_t binade = most(m & kInf, kLeast), c = binade + (13 << kBits);
  const int32_t steps = bits(number(m) + number(c)) - c;
  const int32_t code = steps + ((binade - kLeast) >> 13);
  const int32_t sign = (bits(x) >> 16) & 0x8000;
  return static_cast<uint16_t>((magnitude > kInf ? 0x7E00 : code) | sign);
}

inline uint16_t to_bfloat(float x) {
  const uint32_t u = as<uint32_t>(x);
  const uint32_t rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((u & kMagnitude) > static_cast<uint32_t>(kInf) ? (u >> 16) | 0x40 : rounded);
}

// n inputs as fp32: themselves, or converted into `buffer`.
inline const float* load(const void* x, int dtype, int64_t at, int64_t n, float* buffer) {
  if (dtype == kFloat32) return static_cast<const float*>(x) + at;
  const uint16_t* from = static_cast<const uint16_t*>(x) + at;
  if (dtype == kBFloat16)
    for (int64_t i = 0; i < n; ++i) buffer[i] = number(static_cast<int32_t>(from[i]) << 16);
  else
    for (int64_t i = 0; i < n; ++i) buffer[i] = number(from_half(from[i]));
  return buffer;
}

// Asks for the tile after the one at hand, so that memory works while this core computes.
inline void prefetch(const void* x, int dtype, int64_t at, int64_t n) {
  const int64_t size = dtype == kFloat32 ? 4 : 2;
  const char* next = static_cast<const char*>(x) + at * size;
  for (int64_t i = 0; i < n * size; i += 64) __builtin_prefetch(next + i, 0, 2);
}

// Copies past the caches, where the processor can.
inline void copy(void* to, const void* from, int64_t bytes) {
#if defined(__AVX512F__)
  using Wide = __m512i;
#elif defined(__SSE2__)
  using Wide = __m128i;
#endif
#if defined(__SSE2__)
  constexpr int64_t kWide = sizeof(Wide);
  if (reinterpret_cast<uintptr_t>(to) % kWide == 0 && bytes % kWide == 0) {
    auto* target = static_cast<Wide*>(to);
    auto* source = static_cast<const Wide*>(from);
    for (int64_t i = 0; i < bytes / kWide; ++i) {
#if defined(__AVX512F__)
      _mm512_stream_si512(target + i, _mm512_loadu_si512(source + i));
#else
      _mm_stream_si128(target + i, _mm_loadu_si128(source + i));
#endif
    }
    return;
  }
#endif
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

// Writes n values, rounded once to `dtype`.
inline void store(void* values, int dtype, int64_t at, int64_t n, const float* result, uint16_t* halves, bool stream) {
  const int64_t size = dtype == kFloat32 ? 4 : 2;
  char* target = static_cast<char*>(values) + at * size;
  const void* source = result;
  if (dtype == kBFloat16)
    for (int64_t i = 0; i < n; ++i) halves[i] = to_bfloat(result[i]);
  else if (dtype == kFloat16)
    for (int64_t i = 0; i < n; ++i) halves[i] = to_half(result[i]);
  if (dtype != kFloat32) source = halves;
  if (stream)
    copy(target, source, size * n);
  else
    std::memcpy(target, source, static_cast<size_t>(size * n));
}

// The largest magnitude of those that are not above `below`: what is above wraps round to a negative number.
template <int known>
inline int32_t amax_of(const float* v, int64_t n, int32_t below) {
  const uint32_t past = static_cast<uint32_t>(kMagnitude - below);
  int32_t found = static_cast<int32_t>(past);
  for (int64_t i = 0; i < (known ? known : n); ++i)
    found = most(found, static_cast<int32_t>(static_cast<uint32_t>(bits(v[i]) & kMagnitude) + past));
  return found - static_cast<int32_t>(past);
}
inline int32_t block_amax(const float* v, int64_t n, int32_t below) {
  return n == 32 ? amax_of<32>(v, n, below) : n == 16 ? amax_of<16>(v, n, below) : amax_of<0>(v, n, below);
}

// Which scale an element has: each lane its own, or each `block` elements. A block whose length is known when this is
// compiled needs no loop.
constexpr int kOwn = -1, kAny = 0;

// Calls one(i, scale) for n elements.
template <int known, class One>
inline __attribute__((always_inline)) void each(int64_t n, int64_t block, const One& one) {
  if (known == kOwn) {
    MX_VECTORIZE
    for (int64_t i = 0; i < n; ++i) one(i, i);
    return;
  }
  for (int64_t k = 0, from = 0; from < n; ++k, from += block) {
    const int64_t past = least(from + block, n);
    if (known > 0 && past - from == known) {
      MX_VECTORIZE
      for (int64_t i = 0; i < known; ++i) one(from + i, k);
    } else {
      MX_VECTORIZE
      for (int64_t i = from; i < past; ++i) one(i, k);
    }
  }
}

// Numbers divided by their scales, whose reciprocals are given: not the quotient, but an fp32 number that every
// rounding to at most 8 bits takes to the same element. A quotient that is no tie is at least 2^-33 away from
// one (real_scaled.py). The product in float64 is off by 2^-52, so rounding it to 40 bits restores the ties; what
// lies below fp32's last bit is then kept as that bit being odd.
template <int known>
void divide(const float* __restrict v, int64_t n, int64_t block, const double* __restrict reciprocal,
            float* __restrict quotient) {
  each<known>(n, block, [=](int64_t i, int64_t k) {
    const double product = static_cast<double>(number(bits(v[i]) & kMagnitude)) * reciprocal[k];
    const int64_t wide = as<int64_t>(product) + (1 << 12);
    const int32_t below = static_cast<int32_t>(wide) & ((1 << 29) - (1 << 13));
    const int64_t kept = most<int64_t>((wide >> 29) - (static_cast<int64_t>(1023 - 127) << kBits), 0);
    quotient[i] = number(static_cast<int32_t>(kept) | (below != 0) | (bits(v[i]) & kSign));
  });
}

// Inputs and scales of a run of elements, and where its codes or values go.
struct Run {
  const float* v;
  const int64_t* random;
  const float *inverse, *scale;
  int64_t n, block;
};

template <int rounding, bool values, int known, class Out>
void round_run(const MxElement& e, const Run& run, Out* __restrict out) {
  const int32_t shift = kBits - e.mantissa_bits, magic = shift << kBits, min_normal = e.min_normal;
  const int32_t max_value = e.max_value, flip = e.flip, add = e.add, nan_above = e.nan_above, nan_code = e.nan_code;
  const int32_t half_step = (e.mantissa_bits + 1) << kBits;
  const float zero = number(e.zero), most_value = number(max_value);
  const float* __restrict v = run.v;
  const int64_t* __restrict random = run.random;
  const float* __restrict inverse = run.inverse;
  const float* __restrict scale = run.scale;
  each<known>(run.n, run.block, [=](int64_t i, int64_t k) {
    const int32_t sign = bits(v[i]) & kSign, magnitude = bits(v[i]) & kMagnitude;
    // Saturates first; a NaN stays one.
    const float exact = number(magnitude) * inverse[k];
    const int32_t m = bits(most_value < exact ? most_value : exact);
    const int32_t binade = most(m & kInf, min_normal);
    const int32_t c = binade + magic;
    int32_t sum = bits(number(m) + number(c));
    if (rounding != kEven) {
      const float left = number(m) - (number(sum) - number(c));  // exact, at most half a step
      if (rounding == kAway)
        sum += left == number(binade - half_step);
      else
        sum -= left < 0;
      if (rounding == kStochastic) {
        const float down = number(m) - (number(sum) - number(c));
        const float per_binade = number((2 * 127 << kBits) - binade);
        const float part_of_step = down * per_binade * number((127 + 32 + kBits - shift) << kBits);
        const uint32_t part = static_cast<uint32_t>(static_cast<int64_t>(part_of_step < 0x1p32f ? part_of_step : 0));
        sum += static_cast<uint32_t>(part + static_cast<uint32_t>(random[i])) < part;
      }
    }
    if constexpr (values) {
      const float value = (number(sum) - number(c)) * scale[k];
      out[i] = number(bits(value) | sign) + zero;
    } else {
      const int32_t code = sum - c + ((binade - min_normal) >> shift);
      const int32_t all = sign >> 31;
      out[i] = ((magnitude > nan_above ? nan_code : code) ^ (all & flip)) + (all & add);
    }
  });
}

template <int rounding, bool values, class Out>
void round_by(const MxElement& e, bool lanes, const Run& run, Out* out) {
  if (lanes) return round_run<rounding, values, kOwn>(e, run, out);
  if (rounding == kEven && run.block == 32) return round_run<rounding, values, 32>(e, run, out);
  if (rounding == kEven && run.block == 16) return round_run<rounding, values, 16>(e, run, out);
  round_run<rounding, values, kAny>(e, run, out);
}

template <bool values, class Out>
void round_all(const MxElement& e, int rounding, bool lanes, const Run& run, Out* out) {
  if (rounding == kEven) return round_by<kEven, values>(e, lanes, run, out);
  if (rounding == kAway) return round_by<kAway, values>(e, lanes, run, out);
  if (rounding == kZero) return round_by<kZero, values>(e, lanes, run, out);
  round_by<kStochastic, values>(e, lanes, run, out);
}

// Codes to bytes, apart from what computes them: in one loop, compilers narrow every step of it.
inline void narrow(const int32_t* __restrict wide, int64_t n, uint8_t* __restrict codes) {
  for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(wide[i]);
}

// ---- A cast of a tensor [outer, length, inner] in blocks along `length`.

struct Cast {
  const MxPlan* plan;
  const void* x;
  const int64_t* random;
  int64_t outer, length, inner, block, blocks;
  int dtype;
  uint8_t* codes;     // or null:
  void* values;       // of x's dtype
  void* scales;       // one a block: bytes, or fp32 numbers; null where only values are asked for
  float tensor_scale; // NVFP4's; the tensor's scale; else 1
  bool stream;
};

// What a thread works with: a tile, and the scales of its blocks or lanes with what is derived of them.
struct Scratch {
  int32_t amax[kTile], wide[kTile];
  float scale[kTile], inverse[kTile], source[kTile], quotient[kTile], result[kTile];
  double reciprocal[kTile];
  uint8_t scale_codes[kTile], codes[kTile];
  uint16_t halves[kTile];
  bool poisoned;  // some scale is NaN
};

void power_scales(const MxPlan& p, Scratch& s, int64_t count) {
  const int32_t emax = p.emax, above = p.above, top = p.poisoned;
  const float factor = p.factor;
  for (int64_t k = 0; k < count; ++k) {
    const int32_t amax = s.amax[k], q = bits(number(amax) * factor);
    // In the highest binade of the subnormals the leading bit is explicit; below it the clamp decides.
    const int32_t over = q <= kFraction ? q > (0x00400000 + (above >> 1)) : (q & kFraction) > above;
    const int32_t finite = least(most((q >> kBits) - emax + over, 0), 254);
    const int32_t code = amax >= kInf ? top : finite;
    s.scale_codes[k] = static_cast<uint8_t>(code);
    // Zeros are zeros in any unit, and 2^-127 is slow.
    const int32_t scale = code == kE8M0NaN ? kNaN : code ? code << kBits : 0x00400000;
    const int32_t inverse = code < 254 ? (254 - code) << kBits : 0x00400000;
    s.scale[k] = number(amax ? scale : 127 << kBits);
    s.inverse[k] = number(amax ? inverse : 127 << kBits);
  }
}

inline float fp32_quotient(int32_t amax, float divisor) {
  const float quotient = number(amax) / divisor;
  return amax >= kInf ? number(kNaN) : quotient == 0 ? 1.0f : quotient;
}

void real_scales(const Cast& cast, Scratch& s, int64_t count) {
  const MxPlan& p = *cast.plan;
  const float one = 1.0f;
  if (p.scale == kE4M3) {
    const double unit = static_cast<double>(cast.tensor_scale) * static_cast<double>(p.block_divisor);
    const double reciprocal = 1.0 / unit;
    for (int64_t k = 0; k < count; ++k) s.inverse[k] = number(s.amax[k]);
    divide<kAny>(s.inverse, count, count, &reciprocal, s.quotient);
    const Run run{s.quotient, nullptr, &one, &one, count, count};
    round_all<false>(p.block_scale, kEven, false, run, s.wide);
    narrow(s.wide, count, s.scale_codes);
    round_all<true>(p.block_scale, kEven, false, run, s.scale);
    if (cast.tensor_scale != cast.tensor_scale)
      for (int64_t k = 0; k < count; ++k) s.scale_codes[k] = 0, s.scale[k] = cast.tensor_scale;
  } else {
    for (int64_t k = 0; k < count; ++k)
      s.scale[k] = p.scale == kTensor ? cast.tensor_scale : fp32_quotient(s.amax[k], p.divisor);
  }
  const double tensor_scale = p.scale == kE4M3 ? static_cast<double>(cast.tensor_scale) : 1.0;
  for (int64_t k = 0; k < count; ++k) {
    const double exact = static_cast<double>(s.scale[k]) * tensor_scale;
    s.reciprocal[k] = exact == 0 ? 0.0 : 1.0 / exact;
    s.inverse[k] = 1.0f;
  }
}

// Derives the scales of `count` blocks from their amax, and writes them to `at`.
void find_scales(const Cast& cast, Scratch& s, int64_t at, int64_t count) {
  const int kind = cast.plan->scale;
  if (kind == kE8M0)
    power_scales(*cast.plan, s, count);
  else
    real_scales(cast, s, count);
  int32_t poisoned = 0;
  for (int64_t k = 0; k < count; ++k) poisoned |= s.scale[k] != s.scale[k];
  s.poisoned = poisoned;
  if (cast.scales == nullptr || kind == kTensor) return;
  if (kind == kRow)
    std::memcpy(static_cast<float*>(cast.scales) + at, s.scale, sizeof(float) * static_cast<size_t>(count));
  else
    std::memcpy(static_cast<uint8_t*>(cast.scales) + at, s.scale_codes, static_cast<size_t>(count));
}

// Writes a run of at most kTile elements from `at` on: `v` are its inputs. With `lanes` element i has scale i, else
// blocks of `block` elements have one each, from scale 0 on.
void write_run(const Cast& cast, Scratch& s, const float* v, int64_t at, int64_t n, int64_t block, bool lanes) {
  const MxPlan& p = *cast.plan;
  if (p.scale != kE8M0) {
    if (lanes) divide<kOwn>(v, n, n, s.reciprocal, s.quotient);
    else if (block == 16) divide<16>(v, n, 16, s.reciprocal, s.quotient);
    else divide<kAny>(v, n, block, s.reciprocal, s.quotient);
    v = s.quotient;
  }
  const Run run{v, cast.random == nullptr ? nullptr : cast.random + at, s.inverse, s.scale, n, block};
  if (cast.codes != nullptr) {
    uint8_t* target = cast.stream ? s.codes : cast.codes + at;
    round_all<false>(p.element, p.rounding, lanes, run, s.wide);
    narrow(s.wide, n, target);
    for (int64_t i = 0; s.poisoned && i < n; ++i) {
      const float scale = s.scale[lanes ? i : i / block];
      if (scale != scale) target[i] = 0;
    }
    if (cast.stream) copy(cast.codes + at, s.codes, n);
    return;
  }
  const bool direct = cast.dtype == kFloat32 && !cast.stream;
  float* target = direct ? static_cast<float*>(cast.values) + at : s.result;
  round_all<true>(p.element, p.rounding, lanes, run, target);
  if (p.scale == kE4M3) {
    const float second = cast.tensor_scale, zero = number(p.element.zero);
    for (int64_t i = 0; i < n; ++i) target[i] = target[i] * second + zero;
  }
  if (!direct) store(cast.values, cast.dtype, at, n, s.result, s.halves, cast.stream);
}

// Blocks first, ..., last - 1 of all rows, where they run along the last axis.
void cast_rows(const Cast& cast, Scratch& s, int64_t first, int64_t last) {
  const int64_t block = cast.block, together = most<int64_t>(kTile / block, 1);
  const bool known = cast.plan->scale == kTensor;  // whatever the amax of a part is
  for (int64_t unit = first; unit < last;) {
    const int64_t row = unit / cast.blocks, place = unit % cast.blocks;
    const int64_t count = least(least(together, last - unit), cast.blocks - place);
    const int64_t at = row * cast.length + place * block;
    const int64_t n = least(count * block, cast.length - place * block);  // one block, where it is beyond a tile
    const float* v = nullptr;
    for (int64_t k = 0; k < count; ++k) s.amax[k] = 0;
    for (int64_t done = 0; done < n; done += kTile) {
      const int64_t tile = least(kTile, n - done);
      v = load(cast.x, cast.dtype, at + done, tile, s.source);
      prefetch(cast.x, cast.dtype, at + done + tile, tile);
      for (int64_t k = 0, from = 0; from < tile && !known; ++k, from += block)
        s.amax[k] = most(s.amax[k], block_amax(v + from, least(block, tile - from), cast.plan->amax_below));
    }
    find_scales(cast, s, unit, count);
    for (int64_t done = 0; done < n; done += kTile) {
      const int64_t tile = least(kTile, n - done);
      if (n > kTile) v = load(cast.x, cast.dtype, at + done, tile, s.source);
      write_run(cast, s, v, at + done, tile, least(block, tile), false);
    }
    unit += count;
  }
}

// Blocks along another axis: units are lanes of one block, first, ..., last - 1.
void cast_lanes(const Cast& cast, Scratch& s, int64_t first, int64_t last) {
  const int32_t below = cast.plan->amax_below;
  const int64_t groups = (cast.inner + kLanes - 1) / kLanes;
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t lane = unit % groups * kLanes, of_all = unit / groups;
    const int64_t row = of_all / cast.blocks, place = of_all % cast.blocks;
    const int64_t wide = least(kLanes, cast.inner - lane);
    const int64_t from = place * cast.block, rows = least(cast.block, cast.length - from);
    const int64_t at = (row * cast.length + from) * cast.inner + lane;
    std::memset(s.amax, 0, sizeof(int32_t) * static_cast<size_t>(wide));
    for (int64_t i = 0; i < rows; ++i) {
      const float* v = load(cast.x, cast.dtype, at + i * cast.inner, wide, s.source);
      for (int64_t j = 0; j < wide; ++j) {
        const int32_t magnitude = bits(v[j]) & kMagnitude;
        s.amax[j] = most(s.amax[j], magnitude > below ? 0 : magnitude);
      }
    }
    find_scales(cast, s, of_all * cast.inner + lane, wide);
    for (int64_t i = 0; i < rows; ++i) {
      const float* v = load(cast.x, cast.dtype, at + i * cast.inner, wide, s.source);
      write_run(cast, s, v, at + i * cast.inner, wide, wide, true);
    }
  }
}

// ---- Threads and the floating-point environment.

// Rounding to nearest, and subnormal numbers kept, while it lives.
struct UsualEnvironment {
  std::fenv_t before;
  UsualEnvironment() {
    std::fegetenv(&before);
    std::fesetenv(FE_DFL_ENV);
  }
  ~UsualEnvironment() { std::fesetenv(&before); }
};

// Calls work(part, first, last) for parts of 0, ..., units - 1, each in a thread of its own. The threads end with
// the call, so a process may fork between two. Nothing here asks for memory but the start of a thread.
template <class Work>
void in_parts(int64_t units, int64_t parts, const Work& work) {
  parts = most<int64_t>(least(parts, units), 1);
  const auto run = [&work, units, parts](int64_t part) {
    const UsualEnvironment usual;
    work(part, units * part / parts, units * (part + 1) / parts);
#if defined(__SSE2__)
    _mm_sfence();  // what a thread wrote past the caches is there before it is said to be
#endif
  };
  std::thread threads[kParts];
  int64_t started = 1;
  try {
    for (; started < parts; ++started) threads[started] = std::thread(run, started);
  } catch (const std::exception&) {  // no more threads, or no memory for one: this one does the rest
  }
  run(0);
  for (int64_t part = started; part < parts; ++part) run(part);
  for (int64_t part = 1; part < started; ++part) threads[part].join();
}

inline int64_t parts_of(int64_t n, int64_t threads) {
  return most<int64_t>(least(least(threads, n / kThread), kParts), 1);
}

int32_t tensor_amax(const Cast& cast, int64_t parts) {
  const int64_t n = cast.outer * cast.length * cast.inner;
  int32_t found[kParts] = {}, all = 0;
  in_parts((n + kTile - 1) / kTile, parts, [&](int64_t part, int64_t first, int64_t last) {
    float buffer[kTile];
    int32_t amax = 0;
    for (int64_t at = first * kTile; at < least(last * kTile, n); at += kTile) {
      const int64_t some = least(kTile, n - at);
      amax = most(amax, block_amax(load(cast.x, cast.dtype, at, some, buffer), some, kMagnitude));
    }
    found[part] = amax;
  });
  for (const int32_t one : found) all = most(all, one);
  return all;
}

}  // namespace

extern "C" {

// Casts x, contiguous [outer, length, inner], into codes and scales, or, where `codes` is null, into values of
// x's dtype. Results are contiguous. `tensor_scale` gets NVFP4's.
void mx_cast(const MxPlan* plan, const void* x, const int64_t* random, int64_t outer, int64_t length, int64_t inner,
             int32_t dtype, uint8_t* codes, void* values, void* scales, float* tensor_scale, int32_t threads) {
  const UsualEnvironment usual;
  Cast cast{plan, x, random, outer, length, inner, plan->block, 1, dtype, codes, values, scales, 1.0f, false};
  const int64_t n = outer * length * inner, parts = parts_of(n, threads);
  cast.stream = n * (codes ? 1 : dtype == kFloat32 ? 4 : 2) >= kStream;
  if (plan->scale == kE4M3 || plan->scale == kTensor) {
    const int32_t amax = tensor_amax(cast, parts);
    cast.tensor_scale = fp32_quotient(amax, plan->divisor);
    if (tensor_scale != nullptr) *tensor_scale = cast.tensor_scale;
    if (scales != nullptr && plan->scale == kTensor) *static_cast<float*>(scales) = cast.tensor_scale;
  }
  if (plan->scale == kTensor) {
    cast.outer = cast.inner = 1;
    cast.length = n;
    cast.block = kTile;  // the scale is known: any part will do
  } else if (cast.block == 0) {
    cast.block = length;
  }
  if (cast.inner == 1 && cast.length % cast.block == 0) {
    cast.length *= cast.outer;
    cast.outer = 1;
  }
  cast.blocks = (cast.length + cast.block - 1) / cast.block;
  const int64_t lanes = cast.inner == 1 ? 1 : (cast.inner + kLanes - 1) / kLanes;
  in_parts(cast.outer * cast.blocks * lanes, parts, [&](int64_t, int64_t first, int64_t last) {
    Scratch scratch;
    (cast.inner == 1 ? cast_rows : cast_lanes)(cast, scratch, first, last);
  });
}

// The values of codes, contiguous [outer, length, inner], and their scales: `table` has the value of each code,
// `scale_table` that of each scale's code, or is null where scales are fp32 numbers. Returns all bits that codes have.
int32_t mx_dequantize(const MxPlan* plan, const uint8_t* codes, const void* scales, const float* table,
                      const float* scale_table, float tensor_scale, int64_t outer, int64_t length, int64_t inner,
                      int32_t dtype, void* values, int32_t threads) {
  const int64_t n = outer * length * inner, parts = parts_of(n, threads);
  if (plan->scale == kTensor) outer = inner = 1, length = n;
  const int64_t block = plan->scale == kTensor || plan->block == 0 ? length : least(plan->block, length);
  const int64_t blocks = (length + block - 1) / block;
  const bool stream = n * (dtype == kFloat32 ? 4 : 2) >= kStream, lanes = inner != 1;
  // Runs of elements that lie together and have one scale, or one each; a tile is a part of a run.
  const int64_t runs = lanes ? length : blocks, wide = lanes ? inner : block, tiles = (wide + kTile - 1) / kTile;
  int32_t found[kParts] = {}, all = 0;
  in_parts(outer * runs * tiles, parts, [&](int64_t part, int64_t first, int64_t last) {
    int32_t seen = 0;
    float scale[kTile], result[kTile];
    uint16_t halves[kTile];
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t from = unit % tiles * kTile, row = unit / tiles / runs, place = unit / tiles % runs;
      const int64_t past = lanes ? inner : least(block, length - place * block);
      const int64_t count = most<int64_t>(least(kTile, past - from), 0);
      const int64_t at = row * length * inner + place * (lanes ? inner : block) + from;
      const int64_t scale_at = lanes ? (row * blocks + place / block) * inner + from : row * blocks + place;
      for (int64_t i = 0; i < (lanes ? count : 1); ++i)
        scale[i] = scale_table ? scale_table[static_cast<const uint8_t*>(scales)[scale_at + i]]
                               : static_cast<const float*>(scales)[scale_at + i];
      if (lanes)
        for (int64_t i = 0; i < count; ++i) result[i] = table[codes[at + i]] * scale[i] * tensor_scale;
      else
        for (int64_t i = 0; i < count; ++i) result[i] = table[codes[at + i]] * scale[0] * tensor_scale;
      for (int64_t i = 0; i < count; ++i) seen |= codes[at + i];
      store(values, dtype, at, count, result, halves, stream);
    }
    found[part] = seen;
  });
  for (const int32_t one : found) all |= one;
  return all;
}

}  // extern "C"
