//! W3C Trace Context, level 1: `traceparent` and `tracestate`, and the way between them and tracing's spans.
//!
//! Owns the parser (it allocates nothing) and the ids of contexts that no span stands behind. It must not
//! decide whether a trace is recorded: that is [`crate::sampling`].

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header that carries the ids and the sampled flag.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries what other tracing systems have to say about the same trace.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Version 00 is exactly as long as this: `00-<32 hex>-<16 hex>-<2 hex>`.
const TRACEPARENT_LEN: usize = 55;
/// The length that every participant has to forward; what is longer is dropped whole, which the
/// recommendation allows.
const TRACESTATE_LEN_MAX: usize = 512;
const TRACESTATE_MEMBERS_MAX: usize = 32;
const FLAG_SAMPLED: u8 = 1;

/// Where a request stands in a trace: what arrived with it, or what goes out with a call that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// Never zero.
    pub trace_id: u128,
    /// The id of the sender's span. Never zero.
    pub span_id: u64,
    /// True when the sender records its part of the trace.
    pub sampled: bool,
    /// `tracestate`, already checked; it goes on unchanged.
    pub state: Option<HeaderValue>,
}

impl TraceContext {
    /// The context that a request carries, or `None` when it has none or one that the recommendation says to
    /// ignore.
    ///
    /// A bad `tracestate` costs only the state. Two `traceparent` headers count as none, as nobody can say
    /// which is right.
    pub fn extract(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        let parent = parents.next()?;
        if parents.next().is_some() {
            return None;
        }
        let mut context = Self::parse(parent.as_bytes())?;
        context.state = extract_state(headers);
        Some(context)
    }

    /// Parses the value of a `traceparent` header, without a state.
    ///
    /// A version above 00 may be longer; the fields of version 00 are read from it.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(TRACEPARENT_LEN)?;
        let [version, trace_id, span_id, flags] = fields(head)?;
        let version = hex(version)?;
        match (version, rest.first()) {
            (0xff, _) => return None,
            (_, None) => {}
            (0, Some(_)) => return None,
            (_, Some(&next)) if next != b'-' => return None,
            (_, Some(_)) => {}
        }
        let trace_id = hex(trace_id)?;
        let span_id = hex(span_id)? as u64;
        let flags = hex(flags)? as u8;
        if trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            sampled: flags & FLAG_SAMPLED != 0,
            state: None,
        })
    }

    /// A new trace that starts here.
    pub fn root(sampled: bool) -> Self {
        Self {
            trace_id: rand::random::<u128>().max(1),
            span_id: random_span_id(),
            sampled,
            state: None,
        }
    }

    /// The same trace with a new span id, for a call that goes out of work that has no span of its own.
    pub fn child(&self) -> Self {
        Self {
            span_id: random_span_id(),
            ..self.clone()
        }
    }

    /// Writes the context over whatever trace context `headers` had.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let value = HeaderValue::from_bytes(&self.to_traceparent())
            .expect("hex digits and dashes are a header value");
        headers.insert(TRACEPARENT, value);
        match &self.state {
            Some(state) => headers.insert(TRACESTATE, state.clone()),
            None => headers.remove(TRACESTATE),
        };
    }

    /// The value of a `traceparent` header: ASCII, version 00.
    pub fn to_traceparent(&self) -> [u8; TRACEPARENT_LEN] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut out[3..35], self.trace_id);
        write_hex(&mut out[36..52], u128::from(self.span_id));
        write_hex(&mut out[53..55], u128::from(self.sampled));
        out
    }

    /// The same as OpenTelemetry has it, marked as come from elsewhere.
    pub fn to_span_context(&self) -> SpanContext {
        let state = self
            .state
            .as_ref()
            .and_then(|state| state.to_str().ok()?.parse().ok());
        SpanContext::new(
            TraceId::from(self.trace_id),
            SpanId::from(self.span_id),
            if self.sampled {
                TraceFlags::SAMPLED
            } else {
                TraceFlags::default()
            },
            true,
            state.unwrap_or(TraceState::NONE),
        )
    }

    /// The way back: `None` when the OpenTelemetry context is not valid.
    pub fn from_span_context(context: &SpanContext) -> Option<Self> {
        if !context.is_valid() {
            return None;
        }
        let state = context.trace_state().header();
        Some(Self {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            sampled: context.is_sampled(),
            state: if state.is_empty() {
                None
            } else {
                HeaderValue::try_from(state).ok()
            },
        })
    }
}

/// The `traceparent` form, for log lines.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

/// Makes `parent` the parent of `span`. To be called after the span is made and before it is first entered:
/// its ids are fixed then, and a later call has no effect. Has none either when no traces are exported or the
/// span is disabled.
pub fn set_parent(span: &tracing::Span, parent: &TraceContext) {
    let context = opentelemetry::Context::new().with_remote_span_context(parent.to_span_context());
    let _too_late_or_not_exported = span.set_parent(context);
}

/// The ids of `span`, to send along with a call that is made inside it; `None` when the span is not exported.
///
/// Fixes the ids of the span: [`set_parent`] has no effect afterwards.
pub fn context_of(span: &tracing::Span) -> Option<TraceContext> {
    if span.is_disabled() {
        return None;
    }
    TraceContext::from_span_context(span.context().span().span_context())
}

/// From the thread's generator, which the system seeds: hosts that start at the same moment draw different
/// ids.
fn random_span_id() -> u64 {
    rand::random::<u64>().max(1)
}

/// Cuts the 55 bytes at their dashes.
fn fields(head: &[u8]) -> Option<[&[u8]; 4]> {
    if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
        return None;
    }
    Some([&head[0..2], &head[3..35], &head[36..52], &head[53..55]])
}

/// Lower-case hexadecimal, at most 32 digits.
fn hex(digits: &[u8]) -> Option<u128> {
    let mut value = 0;
    for digit in digits {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u128::from(digit);
    }
    Some(value)
}

fn write_hex(out: &mut [u8], mut value: u128) {
    for place in out.iter_mut().rev() {
        *place = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

fn extract_state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(&TRACESTATE).iter();
    let first = values.next()?;
    let whole = match values.next() {
        None => first.clone(),
        // Several header lines are one list. Rare enough to pay for the copy; bounded by the HTTP head's own
        // limit.
        Some(second) => {
            let mut joined = first.as_bytes().to_vec();
            for value in std::iter::once(second).chain(values) {
                joined.push(b',');
                joined.extend_from_slice(value.as_bytes());
            }
            HeaderValue::from_bytes(&joined).ok()?
        }
    };
    is_tracestate(whole.as_bytes()).then_some(whole)
}

/// Whether the value is a list that may be sent on: members `key=value`, no key twice, at most 32.
fn is_tracestate(value: &[u8]) -> bool {
    if value.len() > TRACESTATE_LEN_MAX {
        return false;
    }
    let mut keys: [&[u8]; TRACESTATE_MEMBERS_MAX] = [&[]; TRACESTATE_MEMBERS_MAX];
    let mut count = 0;
    for member in value.split(|byte| *byte == b',') {
        let member = member.trim_ascii();
        if member.is_empty() {
            continue;
        }
        let Some(equals) = member.iter().position(|byte| *byte == b'=') else {
            return false;
        };
        let (key, value) = (&member[..equals], &member[equals + 1..]);
        if count == keys.len() || !is_state_key(key) || !is_state_value(value) || keys[..count].contains(&key)
        {
            return false;
        }
        keys[count] = key;
        count += 1;
    }
    count > 0
}

fn is_state_key(key: &[u8]) -> bool {
    let is_name = |name: &[u8], len_max: usize, may_start_with_digit: bool| {
        name.len() <= len_max
            && name
                .first()
                .is_some_and(|b| b.is_ascii_lowercase() || (may_start_with_digit && b.is_ascii_digit()))
            && name
                .iter()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    match key.iter().position(|byte| *byte == b'@') {
        None => is_name(key, 256, false),
        Some(at) => is_name(&key[..at], 241, true) && is_name(&key[at + 1..], 14, false),
    }
}

fn is_state_value(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= 256 && value.iter().all(|b| matches!(b, b' '..=b'~') && *b != b'=')
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::try_from(*value).unwrap()))
            .collect()
    }

    #[test]
    fn reads_the_example_of_the_recommendation() {
        let context = TraceContext::parse(VALID.as_bytes()).unwrap();
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(context.sampled);
        assert_eq!(context.to_string(), VALID);
    }

    #[test]
    fn ignores_what_the_recommendation_says_to_ignore() {
        for bad in [
            "",
            "00",
            // Version ff, and versions that are no lower-case hexadecimal.
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0G-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "CC-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            // Zero ids.
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            // Upper case.
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
            // Lengths: version 00 has one only.
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47360-0f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-follows",
            // A later version goes on after a dash or not at all.
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what-follows",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            // Dashes elsewhere, other signs, spaces.
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f067aa0ba902b7-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn reads_later_versions_as_far_as_it_knows_them() {
        let known = TraceContext::parse(VALID.as_bytes());
        for later in [
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-follows",
            // Of the flags only the lowest has a meaning.
            "fe-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-",
        ] {
            assert_eq!(TraceContext::parse(later.as_bytes()), known, "{later:?}");
        }
    }

    #[test]
    fn two_parents_count_as_none() {
        let headers = headers(&[(TRACEPARENT, VALID), (TRACEPARENT, VALID)]);
        assert_eq!(TraceContext::extract(&headers), None);
    }

    #[test]
    fn several_state_headers_are_one_list() {
        let headers = headers(&[(TRACEPARENT, VALID), (TRACESTATE, "a=1,b=2"), (TRACESTATE, "c=3")]);
        let state = TraceContext::extract(&headers).unwrap().state.unwrap();
        assert_eq!(state, "a=1,b=2,c=3");
    }

    #[test]
    fn a_bad_state_costs_only_the_state() {
        let member = "k=v,".repeat(33);
        let long = format!("a={}", "x".repeat(511));
        for bad in [
            "", ",", "a", "a=", "=1", "A=1", "1a=1", "a=1,a=2", "a=1=2", "a\tb=1", "a@=1", "a@1=1", &member,
            &long,
        ] {
            let headers = headers(&[(TRACEPARENT, VALID), (TRACESTATE, bad)]);
            assert_eq!(TraceContext::extract(&headers).unwrap().state, None, "{bad:?}");
        }
        for good in ["a=1", "a=1, b=2 ,,c=3", "0t@sys=x y", "a_-*/0=!~"] {
            let headers = headers(&[(TRACEPARENT, VALID), (TRACESTATE, good)]);
            assert_eq!(TraceContext::extract(&headers).unwrap().state.unwrap(), good);
        }
        let no_parent = headers(&[(TRACESTATE, "a=1")]);
        assert_eq!(TraceContext::extract(&no_parent), None);
    }

    #[test]
    fn injecting_replaces_what_was_there() {
        let mut headers = headers(&[(TRACEPARENT, VALID), (TRACEPARENT, VALID), (TRACESTATE, "a=1")]);
        let context = TraceContext::root(false);
        context.inject(&mut headers);
        assert_eq!(TraceContext::extract(&headers), Some(context));
        assert!(!headers.contains_key(TRACESTATE));
    }

    #[test]
    fn a_child_stays_in_the_trace_and_has_another_id() {
        let parent = TraceContext {
            state: Some(HeaderValue::from_static("a=1")),
            ..TraceContext::root(true)
        };
        let child = parent.child();
        assert_ne!(child.span_id, parent.span_id);
        assert_eq!(
            TraceContext {
                span_id: parent.span_id,
                ..child
            },
            parent
        );
        assert_ne!(TraceContext::root(true).trace_id, parent.trace_id);
    }

    fn contexts() -> impl Strategy<Value = TraceContext> {
        let state = proptest::option::of(
            "[a-z][a-z0-9_*/-]{0,8}=[!-+.-<>-~]{1,8}(,[0-9][a-z]{0,3}@[a-z]{1,5}=[a-z]{1,4})?",
        );
        (1..=u128::MAX, 1..=u64::MAX, any::<bool>(), state).prop_map(|(trace_id, span_id, sampled, state)| {
            let state = state.map(|state| HeaderValue::try_from(state).unwrap());
            TraceContext {
                trace_id,
                span_id,
                sampled,
                state,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_injected_is_extracted(context in contexts()) {
            let mut headers = HeaderMap::new();
            context.inject(&mut headers);
            prop_assert_eq!(TraceContext::extract(&headers), Some(context.clone()));
            prop_assert_eq!(context.to_string().into_bytes(), context.to_traceparent());
        }

        #[test]
        fn opentelemetry_gives_back_what_it_was_given(context in contexts()) {
            let there = context.to_span_context();
            prop_assert!(there.is_valid() && there.is_remote());
            prop_assert_eq!(TraceContext::from_span_context(&there), Some(context));
        }

        #[test]
        fn any_bytes_are_answered(parent in vec(any::<u8>(), 0..80), state in vec(any::<u8>(), 0..600)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&parent) {
                headers.insert(TRACEPARENT, value);
            }
            if let Ok(value) = HeaderValue::from_bytes(&state) {
                headers.insert(TRACESTATE, value);
            }
            let _ = TraceContext::parse(&parent);
            let _ = TraceContext::extract(&headers);
            let _ = is_tracestate(&state);
        }

        /// Nearly right values reach further into the parser than noise does.
        #[test]
        fn a_damaged_parent_is_refused_or_means_what_it_says(
            at in 0..55usize,
            byte in any::<u8>(),
            cut in 0..=60usize,
        ) {
            let mut value = VALID.as_bytes().to_vec();
            value.resize(cut, b'-');
            if let Some(place) = value.get_mut(at) {
                *place = byte;
            }
            if let Some(context) = TraceContext::parse(&value) {
                let again = context.to_traceparent();
                prop_assert_eq!(&again[2..53], &value[2..53]);
                prop_assert!(!value[..55].iter().any(u8::is_ascii_uppercase));
                prop_assert!(&value[..2] != b"ff" && (value.len() == 55 || &value[..2] != b"00"));
            }
        }
    }
}
