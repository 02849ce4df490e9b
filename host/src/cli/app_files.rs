//! What files on the command line stand for: manifests with their components, and bare components.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weft_compose::manifest::{ComponentRef, Manifest, parse};
use weft_compose::name::label_from;
use weft_compose::{AllowPattern, FaultKind, Limits};

use super::registry::RegistryArgs;
use super::{Exit, Failure};
use crate::component::ComponentBytes;
use crate::config::Deployment;
use crate::deploy::{BY_COMPONENT, BY_MANIFEST};
use crate::generate;

/// Reads all files. One component is served at `/`, several each below its name.
pub(super) fn read(
    files: &[PathBuf],
    limits: &Limits,
    allow_http: &[AllowPattern],
) -> Result<Vec<Deployment>, Failure> {
    let bare = files.iter().filter(|file| !is_manifest(file)).count();
    let mut deployments: Vec<Deployment> = Vec::new();
    for file in files {
        let deployment = if is_manifest(file) {
            manifest(file, &RegistryArgs::of_env())?
        } else {
            component(file, bare == 1, limits, allow_http)?
        };
        if deployments
            .iter()
            .any(|other| other.manifest.app.value == deployment.manifest.app.value)
        {
            let app = &deployment.manifest.app.value;
            let text = format!("two files stand for the app {app}: rename one of them");
            return Err(Failure::text(Exit::Usage, text));
        }
        deployments.push(deployment);
    }
    Ok(deployments)
}

fn is_manifest(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn component(
    file: &Path,
    only: bool,
    limits: &Limits,
    allow_http: &[AllowPattern],
) -> Result<Deployment, Failure> {
    let component = ComponentBytes::read(file)?;
    let label = label_from(&file.file_stem().unwrap_or_default().to_string_lossy());
    let route = if only { "/".to_owned() } else { format!("/{label}") };
    let manifest = generate::manifest(&component, &route, limits, allow_http)
        .map_err(|error| Failure::new(Exit::Usage, &error))?;
    Ok(Deployment {
        manifest,
        files: BTreeMap::from([(label, component)]),
        by: BY_COMPONENT,
    })
}

/// A manifest and the components that it names by their paths or in registries, all of whose faults are told at once.
pub(super) fn manifest(file: &Path, registries: &RegistryArgs) -> Result<Deployment, Failure> {
    let (manifest, text) = parsed(file)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut files = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, actor) in &manifest.actors {
        let read = match &actor.component.value {
            ComponentRef::Digest(_) => continue,
            ComponentRef::Path(path) => {
                ComponentBytes::read(&folder.join(path)).map_err(|error| super::chain(&error))
            }
            ComponentRef::Oci(reference) => registries.pull(reference).map_err(|failure| failure.message),
        };
        match read {
            Ok(component) => drop(files.insert(name.clone(), component)),
            Err(reason) => {
                let kind = FaultKind::Found(reason);
                faults.push(manifest.fault(actor.component.span, kind).render(&text));
            }
        }
    }
    if faults.is_empty() {
        Ok(Deployment {
            manifest,
            files,
            by: BY_MANIFEST,
        })
    } else {
        Err(Failure::text(Exit::Input, faults.join("\n")))
    }
}

/// A manifest without its components, and its text.
pub(super) fn parsed(file: &Path) -> Result<(Manifest, String), Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let text = format!("failed to read the manifest {}: {error}", file.display());
        Failure::text(Exit::Input, text)
    })?;
    match parse(&file.display().to_string(), &text) {
        Ok(manifest) => Ok((manifest, text)),
        Err(faults) => Err(Failure::text(Exit::Input, faults.render(&text))),
    }
}
