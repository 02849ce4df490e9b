//! Every subject name of a lattice, made in one place.
//!
//! Owns the grammar: `weft.<lattice>.` and then tokens of letters, digits, `-` and `_`, so that no name can be read as
//! a wildcard or as two tokens. Must not know what is said on a subject. Also owns [`Address`], the token that names one
//! run of one host.

use std::fmt;
use std::sync::Arc;

/// The one queue name: whoever serves a subject shares it with the others who do.
pub const QUEUE: &str = "weft";

/// The longest token, in bytes: as much as a sha256 in hex has.
pub const TOKEN_LEN_MAX: usize = 64;

/// A subject to send to or to listen on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

/// One run of one host: what others send to, and whose clock a stamp is of. A host that starts again has another, so
/// that nothing that was meant for the run before reaches it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Arc<str>);

/// A name that can't be part of a subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` can't be part of a subject: expected 1 to {TOKEN_LEN_MAX} letters, digits, `-` or `_`")]
pub struct SubjectError(String);

/// Maker of the subjects of one lattice.
#[derive(Debug, Clone)]
pub struct Subjects {
    lattice: Arc<str>,
}

impl Subjects {
    /// The subjects of the lattice `name`.
    ///
    /// # Errors
    /// A name that can't be a token; so for all methods.
    pub fn new(name: &str) -> Result<Self, SubjectError> {
        check(name).map(|()| Self { lattice: name.into() })
    }

    /// Calls to actors of `namespace` on `host`.
    pub fn call(&self, host: &str, namespace: &str) -> Result<Subject, SubjectError> {
        self.subject(&["h", host, "call", namespace])
    }

    /// Frames of streams to `host`.
    pub fn stream(&self, host: &str) -> Result<Subject, SubjectError> {
        self.subject(&["h", host, "stream"])
    }

    /// Answers to what `host` asked in batches: below it, what they answer.
    pub fn answers(&self, host: &str) -> Result<Subject, SubjectError> {
        self.subject(&["h", host, "answers"])
    }

    /// Control of `host`: cancels, drain.
    pub fn control(&self, host: &str) -> Result<Subject, SubjectError> {
        self.subject(&["h", host, "ctl"])
    }

    /// Heartbeats of one host in `region`: itself listens there, to know that it is heard.
    pub fn heartbeat(&self, region: &str, host: &str) -> Result<Subject, SubjectError> {
        self.subject(&["hb", region, host])
    }

    /// Heartbeats of all hosts in `region`, to listen on.
    pub fn heartbeats(&self, region: &str) -> Result<Subject, SubjectError> {
        self.subject(&["hb", region]).map(|subject| subject.below())
    }

    /// Digests of who is in `region`.
    pub fn view(&self, region: &str) -> Result<Subject, SubjectError> {
        self.subject(&["view", region])
    }

    /// Digests of all regions, to listen on.
    pub fn views(&self) -> Subject {
        Subject(format!("weft.{}.view", self.lattice).into()).below()
    }

    /// Calls to an actor by clients that have no view of the lattice.
    pub fn front(&self, namespace: &str, app: &str, actor: &str) -> Result<Subject, SubjectError> {
        self.subject(&["front", namespace, app, actor])
    }

    /// All such calls, to listen on.
    pub fn fronts(&self) -> Subject {
        Subject(format!("weft.{}.front.*.*.*", self.lattice).into())
    }

    /// Whom `subject` of [`Subjects::fronts`] names, as `namespace/app/actor`.
    pub fn front_target(&self, subject: &str) -> Option<String> {
        let names = self.rest(subject, "front.")?;
        (names.split('.').count() == 3).then(|| names.replace('.', "/"))
    }

    /// Calls to the outside provider `namespace/app/name`, whichever of its runs takes them.
    pub fn provider(&self, namespace: &str, app: &str, name: &str) -> Result<Subject, SubjectError> {
        self.subject(&["p", namespace, app, name])
    }

    /// Calls to one run of an outside provider, which keeps something for its caller.
    pub fn provider_run(
        &self,
        namespace: &str,
        app: &str,
        name: &str,
        run: &str,
    ) -> Result<Subject, SubjectError> {
        self.subject(&["p", namespace, app, name, run])
    }

    /// Requests that read the desired or observed state of `namespace`.
    pub fn api_read(&self, namespace: &str) -> Result<Subject, SubjectError> {
        self.subject(&["api", "read", namespace])
    }

    /// Requests that write the desired state of `namespace`.
    pub fn api_write(&self, namespace: &str) -> Result<Subject, SubjectError> {
        self.subject(&["api", "write", namespace])
    }

    /// Requests that read the state of a namespace, whichever, to listen on; with `writes` those that write it.
    pub fn apis(&self, writes: bool) -> Subject {
        Subject(format!("weft.{}.{}*", self.lattice, api(writes)).into())
    }

    /// The namespace of `subject`, one of [`Subjects::apis`].
    pub fn api_namespace<'s>(&self, subject: &'s str, writes: bool) -> Option<&'s str> {
        self.rest(subject, api(writes)).filter(|name| check(name).is_ok())
    }

    /// Asks who has the control store.
    pub fn controller(&self) -> Subject {
        Subject(format!("weft.{}.api.controller", self.lattice).into())
    }

    /// Messages between voters, to `node`.
    pub fn raft(&self, node: &str) -> Result<Subject, SubjectError> {
        self.subject(&["raft", node])
    }

    /// Asks `host` for bytes by their digest.
    pub fn artifact(&self, host: &str) -> Result<Subject, SubjectError> {
        self.subject(&["h", host, "artifact"])
    }

    /// Messages through the provider `namespace/app/name`: on `said`, a subject of its own or a pattern of such, whose
    /// tokens are printable ASCII.
    pub fn message(
        &self,
        namespace: &str,
        app: &str,
        name: &str,
        said: &str,
    ) -> Result<Subject, SubjectError> {
        let provider = self.subject(&["m", namespace, app, name])?;
        let fits = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        match said.split('.').all(fits) {
            true => Ok(Subject(format!("{provider}.{said}").into())),
            false => Err(SubjectError(said.chars().take(TOKEN_LEN_MAX).collect())),
        }
    }

    /// What comes after the lattice's name and `kind`.
    fn rest<'s>(&self, subject: &'s str, kind: &str) -> Option<&'s str> {
        let rest = subject.strip_prefix("weft.")?.strip_prefix(&*self.lattice)?;
        rest.strip_prefix('.')?.strip_prefix(kind)
    }

    fn subject(&self, tokens: &[&str]) -> Result<Subject, SubjectError> {
        let mut text = format!("weft.{}", self.lattice);
        for token in tokens {
            check(token)?;
            text.push('.');
            text.push_str(token);
        }
        Ok(Subject(text.into()))
    }
}

fn api(writes: bool) -> &'static str {
    if writes { "api.write." } else { "api.read." }
}

fn check(token: &str) -> Result<(), SubjectError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=TOKEN_LEN_MAX).contains(&token.len()) && token.bytes().all(fits) {
        return Ok(());
    }
    Err(SubjectError(token.chars().take(TOKEN_LEN_MAX).collect()))
}

impl Address {
    /// The address of the run `start` (random) of the host named `host`.
    ///
    /// # Errors
    /// A host's name that can't be a token, or has more than 47 characters.
    pub fn new(host: &str, start: u64) -> Result<Self, SubjectError> {
        check(host)?;
        Self::parse(&format!("{host}-{start:016x}"))
    }

    /// Reads what [`Address::as_str`] gave.
    ///
    /// # Errors
    /// It can't be a token.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        check(text).map(|()| Self(text.into()))
    }

    /// What stands for an address where a subject is called that no host serves.
    pub(crate) fn of_subject(subject: &Subject) -> Self {
        Self(subject.0.clone())
    }

    /// The address as text, a token.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host that it is a run of.
    pub fn host(&self) -> &str {
        self.0.rsplit_once('-').map_or(&*self.0, |(host, _)| host)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Subject {
    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for many, and so is only there to listen on.
    pub fn is_wildcard(&self) -> bool {
        self.0.ends_with(".*")
    }

    /// Whether `other` is this one, or one of those that it stands for.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let (mut own, mut others) = (self.0.split('.'), other.0.split('.'));
        loop {
            match (own.next(), others.next()) {
                (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }

    /// An inbox, of which the transport checks the form.
    pub(crate) fn of_inbox(text: &str) -> Self {
        Self(text.into())
    }

    /// Where a batch of calls that came on `call` is answered, if `reply` asks for it on the subject of a host's answers, in the
    /// same lattice: whoever asks chooses it, so it could be any subject that this host may publish on.
    pub(crate) fn of_answers(call: &str, reply: &str) -> Option<Self> {
        let (mut call, (answers, _number)) = (call.split('.'), reply.rsplit_once('.')?);
        let mut tokens = answers.split('.');
        let is_same = |at: Option<&str>, reply: Option<&str>| at.is_some() && at == reply;
        let fits = is_same(call.next(), tokens.next())
            && is_same(call.next(), tokens.next())
            && is_same(call.next(), tokens.next().filter(|kind| *kind == "h"))
            && tokens.next().is_some()
            && tokens.next() == Some("answers")
            && tokens.next().is_none();
        fits.then(|| Self(answers.into()))
    }

    /// All that are one token longer.
    pub(crate) fn below(&self) -> Self {
        Self(format!("{}.*", self.0).into())
    }

    /// What stands for this one and all that differ from it in the last token; nothing for one that is that already.
    pub(crate) fn wide(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('.').filter(|_| !self.is_wildcard())?;
        Some(Self(format!("{parent}.*").into()))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_answered_to_a_host_of_the_same_lattice_and_nowhere_else() {
        let call = "weft.prod.h.h1.call.default";
        let answers = Subjects::new("prod").unwrap().answers("h2").unwrap();
        assert_eq!(Subject::of_answers(call, &format!("{answers}.7")), Some(answers));
        for reply in [
            "",
            "7",
            "weft.prod.h.h2.answers",
            "weft.prod.h.h2.answers.7.8",
            "weft.prod.h.h2.ctl.7",
            "weft.test.h.h2.answers.7",
            "weft.prod.m.h2.answers.7",
            "other.prod.h.h2.answers.7",
        ] {
            assert_eq!(Subject::of_answers(call, reply), None, "{reply}");
        }
        let front = "weft.prod.front.default.shop.catalog";
        assert_eq!(Subject::of_answers(front, "weft.prod.front.h2.answers.7"), None);
        assert_eq!(Subject::of_answers("", "weft.prod.h.h2.answers.7"), None);
    }

    #[test]
    fn subjects_are_those_of_the_design() {
        let of = Subjects::new("prod").unwrap();
        for (made, text) in [
            (of.call("h1", "default"), "weft.prod.h.h1.call.default"),
            (of.answers("h1"), "weft.prod.h.h1.answers"),
            (of.stream("h1"), "weft.prod.h.h1.stream"),
            (of.control("h1"), "weft.prod.h.h1.ctl"),
            (of.heartbeat("eu", "h1"), "weft.prod.hb.eu.h1"),
            (of.heartbeats("eu"), "weft.prod.hb.eu.*"),
            (of.view("eu"), "weft.prod.view.eu"),
            (Ok(of.views()), "weft.prod.view.*"),
            (
                of.front("default", "shop", "catalog"),
                "weft.prod.front.default.shop.catalog",
            ),
            (
                of.provider("default", "shop", "carts"),
                "weft.prod.p.default.shop.carts",
            ),
            (
                of.provider_run("default", "shop", "carts", "r1"),
                "weft.prod.p.default.shop.carts.r1",
            ),
            (
                of.message("default", "shop", "events", "weft-app.default.shop.a.>"),
                "weft.prod.m.default.shop.events.weft-app.default.shop.a.>",
            ),
            (of.api_read("default"), "weft.prod.api.read.default"),
            (of.api_write("default"), "weft.prod.api.write.default"),
            (Ok(of.fronts()), "weft.prod.front.*.*.*"),
            (Ok(of.apis(false)), "weft.prod.api.read.*"),
            (Ok(of.apis(true)), "weft.prod.api.write.*"),
            (Ok(of.controller()), "weft.prod.api.controller"),
            (of.raft("1"), "weft.prod.raft.1"),
            (of.artifact("h1"), "weft.prod.h.h1.artifact"),
        ] {
            assert_eq!(made.unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_wide_subject_stands_for_those_that_differ_in_the_last_token() {
        let of = Subjects::new("prod").unwrap();
        let wide = of.heartbeat("eu", "h1").unwrap().wide();
        assert_eq!(wide, Some(of.heartbeats("eu").unwrap()));
        assert_eq!(of.views().wide(), None);
    }

    #[test]
    fn a_subject_of_many_covers_each_of_them_and_tells_which_it_was() {
        let of = Subjects::new("prod").unwrap();
        let catalog = of.front("default", "shop", "catalog").unwrap();
        assert!(of.fronts().covers(&catalog));
        assert!(catalog.covers(&catalog));
        assert_eq!(
            of.front_target(catalog.as_str()).as_deref(),
            Some("default/shop/catalog")
        );
        let read = of.api_read("default").unwrap();
        assert!(of.apis(false).covers(&read));
        assert_eq!(of.api_namespace(read.as_str(), false), Some("default"));
        assert_eq!(of.api_namespace(read.as_str(), true), None);
        for other in [of.controller(), of.raft("1").unwrap(), of.views()] {
            assert!(
                !of.fronts().covers(&other) && !of.apis(false).covers(&other),
                "{other}"
            );
            assert_eq!(of.front_target(other.as_str()), None);
            assert_eq!(of.api_namespace(other.as_str(), false), None);
        }
        let elsewhere = Subjects::new("prod2").unwrap();
        assert_eq!(elsewhere.front_target(catalog.as_str()), None);
    }

    #[test]
    fn an_address_names_its_host_and_one_run_of_it() {
        let address = Address::new("eu-1", 0xc0ffee).unwrap();
        assert_eq!(address.as_str(), "eu-1-0000000000c0ffee");
        assert_eq!(address.host(), "eu-1");
        assert_eq!(Address::parse(address.as_str()), Ok(address));
        assert!(Address::new(&"a".repeat(60), 1).is_err());
        assert!(Address::parse("a.b-1").is_err());
    }

    #[test]
    fn a_name_can_t_be_a_wildcard_or_two_tokens() {
        let of = Subjects::new("prod").unwrap();
        for name in ["", "*", ">", "a.b", "a b", "a\r\n", "ä", &"a".repeat(65)] {
            assert!(Subjects::new(name).is_err(), "{name:?} was taken");
            assert!(of.call("h1", name).is_err(), "{name:?} was taken");
        }
        for said in ["", "a..b", "a b", "a\r\n", "ä"] {
            assert!(of.message("a", "b", "c", said).is_err(), "{said:?} was taken");
        }
    }
}
