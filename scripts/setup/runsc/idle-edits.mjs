/**
 * What is changed in gVisor so that a machine that does nothing takes next to no processor time. systrap looks every
 * 400 us whether its threads should spin for their next call or sleep. Where no thread has waited since it last looked
 * there is nothing to decide, and it looks less and less often, down to ten times a second.
 */

const metrics = "pkg/sentry/platform/systrap/metrics.go";

/** @type {readonly { readonly file: string, readonly from: string, readonly to: string }[]} */
export const idleEdits = [
  {
    file: metrics,
    from: "// reset zeroes all buckets.\nfunc (b *latencyBuckets) reset() {\n",
    to: `// count returns the number of recordings.
func (b *latencyBuckets) count() uint64 {
	total := uint64(0)
	for i := range b {
		total += b[i].Load()
	}
	return total
}

// count returns the number of recordings of this period.
func (r *latencyRecorder) count() uint64 {
	return r.stubBound.count() + r.sentryBound.count()
}

// reset zeroes all buckets.
func (b *latencyBuckets) reset() {
`,
  },
  {
    file: metrics,
    from: "\tfor {\n\t\ttime.Sleep(recordingPeriod)\n\n\t\tfastpath.curState(&fastpath)\n",
    to: `	period := time.Duration(recordingPeriod)
	seen := uint64(0)
	for {
		time.Sleep(period)
		if latencies.count() == seen {
			period = min(2*period, 100*time.Millisecond)
		} else {
			period = recordingPeriod
		}

		fastpath.curState(&fastpath)
		seen = latencies.count()
`,
  },
];
