//! Components: from bytes to something that can be instantiated.
//!
//! Owns reading, checking and loading a component. It must not know actors or HTTP routes. Read [`aot`] for where
//! machine code comes from, [`compile`] for the child process that makes it, [`description`] for what is known of a
//! component that is not loaded, [`lazy`] for when it is, [`inspect`] for what `weft inspect` tells.

pub mod aot;
pub mod compile;
pub mod description;
pub mod imports;
pub mod inspect;
pub mod lazy;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};
use wasmtime_wasi_http::p2::bindings::ProxyIndices;
use weft_observability::HostMetrics;

use crate::call;
use crate::digest::Digest;
use crate::engine::Engine;
use crate::store::InstanceState;
use crate::value::wire::LazySignature;
use aot::{AotCache, AotError};
use compile::CompileError;
use description::Description;
use imports::{ActorImport, actor_imports, exported_functions, exported_interfaces};
use inspect::Unlinked;

/// Components above this size are refused: they would take minutes to compile (0.6 to 1.2 s a MB).
pub const COMPONENT_LEN_MAX: u64 = 256 << 20;

/// Why a component can't run here. Every text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The file can't be read.
    #[error("failed to read the component {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than [`COMPONENT_LEN_MAX`].
    #[error("{} has {len} bytes or more, and a component may have {COMPONENT_LEN_MAX}; strip its debug information, for example with `wasm-tools strip`", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        len: u64,
    },
    /// The file is not WebAssembly at all.
    #[error("{} is not a WebAssembly component: it starts with {found}, expected the bytes 00 61 73 6d 0d 00 01 00", path.display())]
    NotWasm {
        /// The file.
        path: PathBuf,
        /// What it starts with.
        found: String,
    },
    /// A core module instead of a component.
    #[error("{} is a core WebAssembly module, not a component; build it for the target wasm32-wasip2, or wrap it with `wasm-tools component new`", path.display())]
    CoreModule {
        /// The file.
        path: PathBuf,
    },
    /// Not valid, for example cut short.
    #[error("{} is not a valid component: {reason} (at byte {offset}); it may be cut short or damaged: build or fetch it again", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What the validator says.
        reason: String,
        /// Where in the file.
        offset: usize,
    },
    /// It imports what nothing here provides.
    #[error("{} imports what nothing here provides: {}; `weft inspect` lists all that it needs", path.display(), unlinked_list(.imports))]
    Unlinked {
        /// The file.
        path: PathBuf,
        /// The imports that stay open.
        imports: Vec<Unlinked>,
    },
    /// Its machine code can't be had.
    #[error("failed to make machine code of {}", path.display())]
    Aot {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: AotError,
    },
    /// wasmtime refuses it, for example as it needs more tables than a slot has.
    #[error("{} can't be run here", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: wasmtime::Error,
    },
    /// What is kept of it in words is not what it is.
    #[error("the component {digest} is not what is written of it; remove {}.json from the folder of components and restart the host", .digest.to_hex())]
    Misdescribed {
        /// The component.
        digest: Digest,
    },
}

impl ComponentError {
    /// Whether the component is not to blame: the machine did not grant what is needed to compile it.
    pub fn is_the_machines(&self) -> bool {
        let Self::Aot { source, .. } = self else {
            return false;
        };
        match source {
            AotError::Compile(error) => {
                matches!(error, CompileError::Process { .. } | CompileError::Failed(_))
            }
            AotError::Io { .. } => true,
            AotError::Load(_) => false,
        }
    }
}

fn unlinked_list(imports: &[Unlinked]) -> String {
    imports
        .iter()
        .map(|import| import.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// A component that was read and found valid, but not compiled.
#[derive(Debug)]
pub struct ComponentBytes {
    /// Where it was read from.
    pub path: PathBuf,
    /// All of its bytes.
    pub bytes: Vec<u8>,
    /// The name of the bytes.
    pub digest: Digest,
}

impl ComponentBytes {
    /// Reads a file and checks that it starts as a component does. Whether all of it is valid shows when it is
    /// compiled, or by [`validate`](Self::validate).
    ///
    /// # Errors
    /// [`ComponentError::Read`], [`TooLarge`](ComponentError::TooLarge), [`NotWasm`](ComponentError::NotWasm) or
    /// [`CoreModule`](ComponentError::CoreModule).
    pub fn read(path: &Path) -> Result<Self, ComponentError> {
        let failed = |source| ComponentError::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
        }
        let mut bytes = Vec::new();
        // A device or a pipe has no length, and may have no end.
        if metadata.len() <= COMPONENT_LEN_MAX {
            let read = file.take(COMPONENT_LEN_MAX + 1).read_to_end(&mut bytes);
            read.map_err(failed)?;
        }
        let len = metadata.len().max(bytes.len() as u64);
        if len > COMPONENT_LEN_MAX {
            return Err(ComponentError::TooLarge {
                path: path.to_owned(),
                len,
            });
        }
        check_header(path, &bytes)?;
        let digest = Digest::of(&bytes);
        Ok(Self {
            path: path.to_owned(),
            bytes,
            digest,
        })
    }

    /// Checks all of the bytes, in some milliseconds a megabyte.
    ///
    /// # Errors
    /// [`ComponentError::Invalid`], with the place of the first fault.
    pub fn validate(&self) -> Result<(), ComponentError> {
        match wasmparser::Validator::new_with_features(inspect::FEATURES).validate_all(&self.bytes) {
            Ok(_) => Ok(()),
            Err(error) => Err(ComponentError::Invalid {
                path: self.path.clone(),
                reason: error.message().to_owned(),
                offset: error.offset(),
            }),
        }
    }
}

fn check_header(path: &Path, bytes: &[u8]) -> Result<(), ComponentError> {
    let path = || path.to_owned();
    if wasmparser::Parser::is_component(bytes) {
        Ok(())
    } else if wasmparser::Parser::is_core_wasm(bytes) {
        Err(ComponentError::CoreModule { path: path() })
    } else if bytes.is_empty() {
        Err(ComponentError::NotWasm {
            path: path(),
            found: "nothing".to_owned(),
        })
    } else {
        let found = bytes
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(" ");
        Err(ComponentError::NotWasm { path: path(), found })
    }
}

/// A component whose imports are all resolved, ready to be instantiated as often as wanted.
pub struct LoadedComponent {
    /// The name of its bytes.
    pub digest: Digest,
    /// With every import resolved once.
    pub pre: InstancePre<InstanceState>,
    /// Its `wasi:http/incoming-handler`, the export looked up once, if it has one.
    pub http: Option<ProxyIndices>,
    /// The functions of all the interfaces that it exports, in the order of its description.
    pub functions: Vec<ComponentExportIndex>,
    /// Their types, in the same order.
    signatures: Vec<Arc<LazySignature>>,
    /// What other actors are to answer.
    imports: Vec<ActorImport>,
}

impl LoadedComponent {
    /// What it takes and gives; `len` is its size in bytes, as wasm.
    pub fn describe(&self, engine: &Engine, len: usize) -> Description {
        Description::of(
            engine,
            self.pre.component(),
            &self.imports,
            self.http.is_some(),
            len,
        )
    }

    /// The types of an exported function, by its place in [`functions`](Self::functions).
    pub fn signature(&self, position: usize) -> Option<Arc<LazySignature>> {
        self.signatures.get(position).cloned()
    }

    /// Whether links that were made by `description` are right for it. Types are compared again when it is called.
    fn fits(&self, description: &Description) -> bool {
        let functions = description.exports.iter().map(|export| export.functions.len());
        let imports = std::iter::zip(&self.imports, &description.actor_imports).all(|(own, told)| {
            own.interface == told.interface
                && own
                    .functions
                    .iter()
                    .map(|function| &function.name)
                    .eq(told.functions.iter().map(|function| &function.name))
        });
        imports
            && self.imports.len() == description.actor_imports.len()
            && self.functions.len() == functions.sum::<usize>()
            && self.http.is_some() == description.http
    }
}

/// Loads components into an engine: from the cache, or by compiling first.
pub struct Loader {
    engine: Arc<Engine>,
    linker: Linker<InstanceState>,
    cache: AotCache,
    metrics: HostMetrics,
}

impl Loader {
    /// A loader that resolves imports with `linker` and keeps machine code in `cache`.
    pub fn new(
        engine: Arc<Engine>,
        linker: Linker<InstanceState>,
        cache: AotCache,
        metrics: HostMetrics,
    ) -> Self {
        Self {
            engine,
            linker,
            cache,
            metrics,
        }
    }

    /// The engine that components are loaded into.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Whether there is machine code of the component for this engine. Whether it may be run shows when it is loaded.
    pub fn is_compiled(&self, digest: Digest) -> bool {
        self.cache.has(&self.engine, digest)
    }

    /// Compiles `component` in a child process unless the cache has it, maps its machine code, resolves its imports.
    ///
    /// # Errors
    /// Any [`ComponentError`]. Nothing that runs is touched.
    pub async fn load(&self, component: &ComponentBytes) -> Result<LoadedComponent, ComponentError> {
        let started = std::time::Instant::now();
        let loaded = match self.cache.get(&self.engine, component).await {
            Ok(loaded) => loaded,
            Err(source) => {
                // The validator's word is better than a failed compilation's.
                component.validate()?;
                return Err(ComponentError::Aot {
                    path: component.path.clone(),
                    source,
                });
            }
        };
        let loaded = self.link(component.digest, &component.path, loaded)?;
        self.metrics.component_loaded(started.elapsed());
        Ok(loaded)
    }

    /// The component whose machine code is in the cache, with its imports resolved. Takes a few hundred microseconds, in
    /// which it reads the file. `None` if it has to be [loaded](Self::load) from its bytes.
    ///
    /// # Errors
    /// If it is not what `description` says, or can't be linked.
    pub fn load_cached(
        &self,
        digest: Digest,
        description: &Description,
    ) -> Result<Option<LoadedComponent>, ComponentError> {
        let started = std::time::Instant::now();
        let Some(loaded) = self.cache.cached(&self.engine, digest) else {
            return Ok(None);
        };
        let loaded = self.link(digest, Path::new(&digest.to_string()), loaded)?;
        if !loaded.fits(description) {
            return Err(ComponentError::Misdescribed { digest });
        }
        self.metrics.component_loaded(started.elapsed());
        Ok(Some(loaded))
    }

    fn link(
        &self,
        digest: Digest,
        path: &Path,
        component: Component,
    ) -> Result<LoadedComponent, ComponentError> {
        let imports = actor_imports(&self.engine, &component);
        let unlinked = inspect::unlinked(&self.engine, &component, &imports);
        if !unlinked.is_empty() {
            return Err(ComponentError::Unlinked {
                path: path.to_owned(),
                imports: unlinked,
            });
        }
        let refused = |source| ComponentError::Refused {
            path: path.to_owned(),
            source,
        };
        let mut linker = self.linker.clone();
        let types = component.component_type();
        for (number, import) in imports.iter().enumerate() {
            call::add_to_linker(&mut linker, number, import, &types).map_err(refused)?;
        }
        let pre = linker.instantiate_pre(&component).map_err(refused)?;
        let (functions, signatures) = exported_interfaces(&self.engine, &component)
            .iter()
            .flat_map(|interface| exported_functions(&self.engine, &component, interface))
            .map(|(_, export)| (export.index, Arc::new(LazySignature::new(export.ty))))
            .unzip();
        Ok(LoadedComponent {
            digest,
            http: ProxyIndices::new(&pre).ok(),
            pre,
            functions,
            signatures,
            imports,
        })
    }
}
