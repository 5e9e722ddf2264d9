//! Medians and their table.

/// Samples of one quantity.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// The value that this share of the samples does not exceed.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index into few samples"
        )]
        let index = ((sorted.len().max(1) - 1) as f64 * share).round() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(0.5)
    }
}

/// One line of the results.
pub(crate) fn line(what: &str, samples: &Samples, unit: &str, goal: &str) {
    println!(
        "{what:<58} {:>9.2} {unit:<4} p95 {:>9.2}  min {:>9.2}  n {:>3}  {goal}",
        samples.median(),
        samples.percentile(0.95),
        samples.percentile(0.0),
        samples.0.len()
    );
}
