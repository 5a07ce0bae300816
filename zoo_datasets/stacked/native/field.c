/* Fits fields, each member to a signal of its own; see native.c, whose stages take PIXELS points at a time.
 *
 * A linear layer is a convolution by 1 x 1 of an image with PIXELS columns. A step is one over all points.
 */

/* The part of the mean squared error that some points have, and of its gradients those of the network's output. */
static void field_error(const Job *job, const Workspace *w, int64_t part, int training) {
  enum { VALUES = CLASSES * PIXELS };
  for (int i = 0; i < CHANNELS * PIXELS; i++) w->input[i] = splat(job->points[part * CHANNELS * PIXELS + i]);
  forward_stages(job, w, training, 0, 0, 0, DEPTH);
  const v *targets = job->targets + part * VALUES, *drawn = w->output[DEPTH - 1];
  const double share = 1. / ((double)VALUES * job->length);
  v sum = {0};
  for (int i = 0; i < VALUES; i++) {
    const v error = drawn[i] - targets[i];
    sum += error * error;
    w->gradient[DEPTH - 1][i] = error * (float)(2 * share);
  }
  for (int l = 0; l < LANES; l++) job->loss[l] += sum[l] * share;
}

/* Takes `steps` steps, as zoo_train; `loss` gets the mean squared error before each. */
void zoo_fit(const Job *job) {
  Workspace w;
  lay_out(job->workspace, &w);
  for (int64_t i = 0; i < job->steps; i++) {
    memset(w.gradients, 0, sizeof(v) * PARAMETERS);
    for (int64_t part = 0; part < job->length; part++) {
      field_error(job, &w, part, 1);
      backward_stages(job, &w, 0, DEPTH);
    }
    if (job->mask)
      for (int k = 0; k < PARAMETERS; k++) w.gradients[k] *= job->mask[k];
    if (job->clip) clip_gradients(job, w.gradients, 0);
    optimize(job, (Group){job->parameters, job->first, job->second, w.gradients}, i);
  }
}

/* Adds up the mean squared error over all points. */
void zoo_measure(const Job *job) {
  Workspace w;
  lay_out(job->workspace, &w);
  for (int64_t part = 0; part < job->length; part++) field_error(job, &w, part, 0);
}

/* Value and derivative of a sine, for tests: n floats each, n a multiple of LANES. */
void zoo_sines(float omega, const float *x, float *y, float *d, int64_t n) {
  for (int64_t i = 0; i < n; i += LANES) {
    v value, slope;
    memcpy(&value, x + i, sizeof value);
    sines(omega, &value, &slope, 1);
    memcpy(y + i, &value, sizeof value);
    memcpy(d + i, &slope, sizeof slope);
  }
}
