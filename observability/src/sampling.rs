//! Whether a request is traced, decided once at the edge and before any span is made.
//!
//! A span costs about a microsecond even when it is thrown away afterwards, so the SDK's own sampler is
//! always on and the question is answered here. Owns the reading of `OTEL_TRACES_SAMPLER`; must not know what
//! is traced.

use thiserror::Error;

use crate::propagation::TraceContext;

/// The environment variable that names the sampler.
pub const SAMPLER_VAR: &str = "OTEL_TRACES_SAMPLER";
/// The environment variable that gives the ratio, from 0 to 1.
pub const SAMPLER_ARG_VAR: &str = "OTEL_TRACES_SAMPLER_ARG";

/// A sampler that the environment asks for and that can't be had.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{variable} is {value:?}, expected {expected}")]
pub struct SamplerError {
    /// The name of the environment variable.
    pub variable: &'static str,
    /// What it held.
    pub value: String,
    /// What it may hold.
    pub expected: &'static str,
}

/// The decision whether a request is traced. Copied freely; holds no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// Follow the parent where there is one.
    parent_based: bool,
    root: Root,
}

/// What happens to a trace that starts here (and to every trace, when the parent does not count).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Always,
    Never,
    /// Traces whose id, seen as 63 bits, lies below the bound. All hosts with one ratio decide alike for one
    /// trace.
    Below(u64),
}

impl Sampler {
    /// Never traces, whatever the parent says: for hosts that export no traces.
    pub const OFF: Self = Self {
        parent_based: false,
        root: Root::Never,
    };

    /// Reads the sampler from its two environment variables; `lookup` gives a variable's value, `None` when
    /// unset.
    ///
    /// Unset and empty mean `parentbased_always_on`, and a ratio of 1.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SamplerError> {
        let set = |name| lookup(name).filter(|value: &String| !value.trim().is_empty());
        let name = set(SAMPLER_VAR).unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (parent_based, root) = match name.trim() {
            "always_on" => (false, Root::Always),
            "always_off" => (false, Root::Never),
            "traceidratio" => (false, Root::below(set(SAMPLER_ARG_VAR))?),
            "parentbased_always_on" => (true, Root::Always),
            "parentbased_always_off" => (true, Root::Never),
            "parentbased_traceidratio" => (true, Root::below(set(SAMPLER_ARG_VAR))?),
            _ => {
                return Err(SamplerError {
                    variable: SAMPLER_VAR,
                    value: name,
                    expected: "always_on, always_off, traceidratio, parentbased_always_on, \
                               parentbased_always_off or parentbased_traceidratio",
                });
            }
        };
        Ok(Self { parent_based, root })
    }

    /// Whether the request that came with `parent` (or with none) is traced. To be asked once per request,
    /// before a span is made; a request that is not traced gets `Span::none()` and passes its context on with
    /// the flag unset.
    pub fn decide(&self, parent: Option<&TraceContext>) -> bool {
        match parent {
            Some(parent) if self.parent_based => parent.sampled,
            _ => match self.root {
                Root::Always => true,
                Root::Never => false,
                // A trace that starts here has no id yet (the SDK makes it): its dice are thrown instead.
                Root::Below(bound) => {
                    parent.map_or_else(rand::random::<u64>, |p| p.trace_id as u64) >> 1 < bound
                }
            },
        }
    }
}

impl Root {
    fn below(ratio: Option<String>) -> Result<Self, SamplerError> {
        let Some(value) = ratio else {
            return Ok(Self::Always);
        };
        match value.trim().parse::<f64>() {
            Ok(1.0) => Ok(Self::Always),
            // The same arithmetic as the SDK's sampler, so that mixed fleets agree.
            Ok(ratio) if (0.0..1.0).contains(&ratio) => Ok(Self::Below((ratio * (1u64 << 63) as f64) as u64)),
            _ => Err(SamplerError {
                variable: SAMPLER_ARG_VAR,
                value,
                expected: "a ratio from 0 to 1",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(name: &str, ratio: &str) -> Result<Sampler, SamplerError> {
        Sampler::from_env(|variable| match variable {
            SAMPLER_VAR => Some(name.to_owned()),
            SAMPLER_ARG_VAR => Some(ratio.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn each_sampler_decides_as_its_name_says() {
        let parent = |sampled, trace_id| TraceContext {
            trace_id,
            span_id: 1,
            sampled,
            state: None,
        };
        // The lower half of the trace ids' low 64 bits is below a ratio of one half.
        let (low, high) = (1, 1 << 63);
        for (name, ratio, alone, unsampled_low, unsampled_high, sampled_low, sampled_high) in [
            ("always_on", "", true, true, true, true, true),
            ("always_off", "", false, false, false, false, false),
            ("traceidratio", "", true, true, true, true, true),
            ("traceidratio", "0", false, false, false, false, false),
            ("traceidratio", "1.0", true, true, true, true, true),
            ("parentbased_always_on", "", true, false, false, true, true),
            ("parentbased_always_off", "", false, false, false, true, true),
            ("parentbased_traceidratio", "0", false, false, false, true, true),
            ("parentbased_traceidratio", "1", true, false, false, true, true),
            (
                " parentbased_traceidratio ",
                " 1 ",
                true,
                false,
                false,
                true,
                true,
            ),
            ("", "", true, false, false, true, true),
        ] {
            let sampler = sampler(name, ratio).unwrap();
            let decided = [
                sampler.decide(None),
                sampler.decide(Some(&parent(false, low))),
                sampler.decide(Some(&parent(false, high))),
                sampler.decide(Some(&parent(true, low))),
                sampler.decide(Some(&parent(true, high))),
            ];
            let expected = [alone, unsampled_low, unsampled_high, sampled_low, sampled_high];
            assert_eq!(decided, expected, "{name} {ratio}");
        }
        let half = sampler("traceidratio", "0.5").unwrap();
        for sampled in [false, true] {
            assert!(half.decide(Some(&parent(sampled, low))));
            assert!(!half.decide(Some(&parent(sampled, high))));
        }
    }

    #[test]
    fn unset_variables_mean_always_on_with_regard_to_the_parent() {
        assert_eq!(Sampler::from_env(|_| None), sampler("parentbased_always_on", ""));
    }

    #[test]
    fn a_ratio_takes_that_part_of_new_traces() {
        let quarter = sampler("parentbased_traceidratio", "0.25").unwrap();
        let taken = (0..10_000).filter(|_| quarter.decide(None)).count();
        // Six standard deviations.
        assert!((2_240..=2_760).contains(&taken), "{taken}");
    }

    #[test]
    fn off_says_no_even_to_a_sampled_parent() {
        assert!(!Sampler::OFF.decide(Some(&TraceContext::root(true))));
        assert!(!Sampler::OFF.decide(None));
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_the_variable() {
        let error = sampler("sometimes", "").unwrap_err();
        assert_eq!(error.variable, SAMPLER_VAR);
        assert!(
            error
                .to_string()
                .starts_with("OTEL_TRACES_SAMPLER is \"sometimes\", expected always_on, "),
            "{error}"
        );
        for ratio in ["half", "-0.1", "1.1", "NaN", "inf", "10%"] {
            let error = sampler("traceidratio", ratio).unwrap_err();
            assert_eq!(
                (error.variable, error.expected),
                (SAMPLER_ARG_VAR, "a ratio from 0 to 1"),
                "{ratio}"
            );
        }
        // The ratio of a sampler that has none is not looked at.
        assert!(sampler("always_on", "half").is_ok());
    }
}
