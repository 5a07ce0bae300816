/* Elementary functions and random numbers of a vector; see native.c. */

/* ---- elementary functions: within a few units in the last place, NaN stays NaN ------------------------ */

/* Cody-Waite reduction and the polynomial of Cephes' expf. */
INLINE v exp_v(v x) {
  x = choose(x > 89.f, splat(89.f), x);
  x = choose(x < -104.f, splat(-104.f), x);
  v shifted = x * 1.44269504f + 12582912.f; /* 1.5 * 2^23: rounds to an integer, kept in the low bits */
  vi n = (vi)shifted - 0x4B400000;
  v r = x, whole = shifted - 12582912.f;
  r = whole * -0.693145752f + r;
  r = whole * -1.42860677e-6f + r;
  v p = splat(1.98756912e-4f);
  p = p * r + 1.39819994e-3f;
  p = p * r + 8.33345205e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666657e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.f;
  vi half = n >> 1; /* two factors, so that the smallest and the largest results are reached */
  return p * (v)((half + 127) << 23) * (v)((n - half + 127) << 23);
}

/* e^x - 1 for x below 0, exact near 0 too: the same reduction, and 1 subtracted from the power of two. */
INLINE v expm1_v(v x) {
  x = choose(x < -30.f, splat(-30.f), x);
  v shifted = x * 1.44269504f + 12582912.f, whole = shifted - 12582912.f, r = x;
  r = whole * -0.693145752f + r;
  r = whole * -1.42860677e-6f + r;
  v p = splat(1.98756912e-4f);
  p = p * r + 1.39819994e-3f;
  p = p * r + 8.33345205e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666657e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r;
  v power = (v)(((vi)shifted - 0x4B400000 + 127) << 23);
  return p * power + (power - 1.f);
}

INLINE v clamp(v x, float bound) {
  x = choose(x > bound, splat(bound), x);
  return choose(x < -bound, splat(-bound), x);
}

/* Rational minimax approximation with the coefficients of Eigen's fast tanh; beyond the bounds, which depend on how
   sums of products are rounded, it is 1 and its derivative 0. */
#if defined(__FMA__) || defined(__aarch64__)
#define TANH_BOUND 7.99881172180175781f
#else
#define TANH_BOUND 7.90531110763549805f
#endif

INLINE v tanh_v(v x) {
  v c = clamp(x, TANH_BOUND), s = c * c;
  v p = splat(-2.76076847742355e-16f);
  p = p * s + 2.00018790482477e-13f;
  p = p * s + -8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  v q = splat(1.19825839466702e-06f);
  q = q * s + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  vi small = (vi)(c < 4e-4f) & (vi)(c > -4e-4f);
  return choose(small, x, c * p / q);
}

/* The normal distribution function: exp(-x^2 / 2) times a polynomial in 1 / (1 + 0.35 |x|), fitted to the scaled
   complementary error function. Its relative error stays at a few 1e-7 far into the negative tail, where
   0.5 + 0.5 erf cancels. `gauss` is exp(-x^2 / 2). */
INLINE v normal_cdf_v(v x, v gauss) {
  v magnitude = (v)((vi)x & 0x7FFFFFFF);
  v t = 1.f / (magnitude * 0.35f + 1.f);
  v p = splat(-2.916753053e-2f);
  p = p * t + 1.440789475e-1f;
  p = p * t + -2.559402827e-1f;
  p = p * t + 1.594374191e-1f;
  p = p * t + -2.329454443e-2f;
  p = p * t + 1.055876561e-1f;
  p = p * t + 1.198123323e-1f;
  p = p * t + 1.398647550e-1f;
  p = p * t + 1.396212358e-1f;
  v tail = t * p * gauss;
  return choose(x < 0.f, tail, 1.f - tail);
}

INLINE v sqrt_v(v x) {
#if LANES == 16 && defined(__AVX512F__) && defined(__AVX512DQ__)
  return (v)_mm512_sqrt_ps((__m512)x);
#else
  v y;
  for (int l = 0; l < LANES; l++) y[l] = __builtin_sqrtf(x[l]);
  return y;
#endif
}

/* Value of the activation in y, derivative in d. */
INLINE void activation(const int kind, v x, v *y, v *d) {
  switch (kind) {
    case TANH:
      *y = tanh_v(x);
      *d = 1.f - *y * *y;
      break;
    case RELU: /* not x > 0: a NaN passes */
      *y = (v)((vi)x & ~(vi)(x <= 0.f));
      *d = (v)((vi)splat(1.f) & ~(vi)(x <= 0.f));
      break;
    case SIGMOID:
      *y = 1.f / (1.f + exp_v(-x));
      *d = *y * (1.f - *y);
      break;
    case GELU: {
      v gauss = exp_v(x * x * -0.5f), cdf = normal_cdf_v(x, gauss);
      *y = x * cdf;
      *d = cdf + x * gauss * 0.39894228f;
      break;
    }
    case SILU: {
      v sigmoid = 1.f / (1.f + exp_v(-x));
      *y = x * sigmoid;
      *d = sigmoid * (x * (1.f - sigmoid) + 1.f);
      break;
    }
    case LEAKY_RELU:
      *d = choose(x > 0.f, splat(1.f), splat(0.01f));
      *y = x * *d;
      break;
    case ELU:
      *y = choose(x > 0.f, x, expm1_v(x));
      *d = choose(x > 0.f, splat(1.f), *y + 1.f);
      break;
    case SELU: {
      v below = expm1_v(x);
      *y = choose(x > 0.f, x, below * 1.67326324f) * 1.05070098f;
      *d = choose(x > 0.f, splat(1.05070098f), (below + 1.f) * 1.75809934f);
      break;
    }
    default: /* NONE */
      *y = x;
      *d = splat(1.f);
  }
}

/* Cephes' logf: m * 2^e with m in [sqrt(1/2), sqrt(2)); for normal positive x. `log1` is the logarithm of 1 + f. */
INLINE v log1_v(v f, v e) {
  v z = f * f, p = splat(7.0376836292e-2f);
  p = p * f + -1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f + -1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f + -1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f + -2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  p = p * f * z + e * -2.12194440e-4f - z * 0.5f;
  return f + p + e * 0.693359375f;
}

INLINE v log_v(v x) {
  vi bits = (vi)x - 0x3F3504F3; /* sqrt(1/2) */
  vi e = bits >> 23;
  v m = (v)((vi)x - (e << 23));
  return log1_v(m - 1.f, __builtin_convertvector(e, v));
}

/* cos and sin of 2 pi u, u in [0, 1]: Cephes' polynomials on an eighth of the circle to either side. */
INLINE void turn_v(v u, v *cosine, v *sine) {
  v shifted = u * 4.f + 12582912.f;
  vi quarter = (vi)shifted - 0x4B400000;
  v x = (u * 4.f - (shifted - 12582912.f)) * 1.57079633f, z = x * x;
  v s = ((z * -1.9515295891e-4f + 8.3321608736e-3f) * z + -1.6666654611e-1f) * z * x + x;
  v c = ((z * 2.443315711809948e-5f + -1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - z * 0.5f + 1.f;
  vi odd = -(quarter & 1), negative_cosine = ((quarter + 1) & 2) << 30, negative_sine = (quarter & 2) << 30;
  *cosine = (v)((vi)choose(odd, s, c) ^ negative_cosine);
  *sine = (v)((vi)choose(odd, c, s) ^ negative_sine);
}

/* sin and cos of x for |x| below SINE_BOUND, within 2e-7: x less a multiple of pi, whose three parts times that
   multiple are exact, and polynomials fitted on half a circle. */
#define SINE_BOUND 25000.f
INLINE void sine_v(v x, v *sine, v *cosine) {
  v shifted = x * 0.318309886f + 12582912.f, whole = shifted - 12582912.f, r = x;
  vi odd = (vi)shifted << 31;
  r = whole * -3.140625f + r;
  r = whole * -0.0009670257568359375f + r;
  r = whole * -6.27832957300962e-7f + r;
  v z = r * r, s = splat(2.59990445e-6f), c = splat(-2.60756596e-7f);
  s = s * z + -1.98065477e-4f;
  s = s * z + 8.33301637e-3f;
  s = s * z + -1.66666571e-1f;
  c = c * z + 2.47618080e-5f;
  c = c * z + -1.38884021e-3f;
  c = c * z + 4.16666406e-2f;
  c = c * z + -4.99999995e-1f;
  *sine = (v)((vi)(s * z * r + r) ^ odd);
  *cosine = (v)((vi)(c * z + 1.f) ^ odd);
}

/* Two standard normal numbers by Box and Muller; u = (word + 1/2) / 2^32. Near u = 1 the logarithm is taken of
   1 - (1 - u), which is exact where u itself would be rounded. */
INLINE void normal_pair(const vu words[2], v *first, v *second) {
  const float unit = 0x1p-32f;
  vi high = (vi)(words[0] >= 0xC0000000u);
  v u = __builtin_convertvector(words[0], v) * unit + 0.5f * unit;
  v rest = __builtin_convertvector(~words[0], v) * unit + 0.5f * unit;
  v radius = sqrt_v(choose(high, log1_v(-rest, splat(0.f)), log_v(u)) * -2.f);
  v cosine, sine;
  turn_v(__builtin_convertvector(words[1], v) * unit + 0.5f * unit, &cosine, &sine);
  *first = radius * cosine;
  *second = radius * sine;
}

/* ---- random numbers: Philox4x32-10, a key a lane ------------------------------------------------------ */

INLINE void multiply(vu x, uint32_t m, vu *high, vu *low) {
#if LANES == 16 && defined(__AVX512F__) && defined(__AVX512DQ__)
  __m512i factor = _mm512_set1_epi64(m), a = (__m512i)x;
  __m512i even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
  *low = (vu)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  *high = (vu)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
#else
  vw product = __builtin_convertvector(x, vw) * (uint64_t)m;
  *low = __builtin_convertvector(product, vu);
  *high = __builtin_convertvector(product >> 32, vu);
#endif
}

INLINE void philox(const vu key[2], const uint32_t counter[4], vu words[4]) {
  vu c0 = (vu){0} + counter[0], c1 = (vu){0} + counter[1], c2 = (vu){0} + counter[2], c3 = (vu){0} + counter[3];
  vu k0 = key[0], k1 = key[1], high0, low0, high1, low1;
  UNROLL for (int round = 0; round < 10; round++) {
    multiply(c0, 0xD2511F53u, &high0, &low0);
    multiply(c2, 0xCD9E8D57u, &high1, &low1);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

