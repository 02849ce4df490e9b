//! What is done to files. All of it blocks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use weft_capabilities::blob_store::{PAGE_LEN_MAX, check_containers};
use weft_capabilities::{BlobError, Container, ContainerInfo, Listing, Object, ObjectInfo, ObjectPage};

use crate::name::{self, Step};
use crate::staging::{Staged, Staging, sync_folder_of};

pub(crate) struct Disk {
    /// Containers, by their steps.
    objects: PathBuf,
    pub(crate) staging: Staging,
}

impl Disk {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let objects = folder.join("objects");
        create_folders(&objects)?;
        let staging = Staging::open(&folder.join("staging"))?;
        Ok(Self { objects, staging })
    }

    fn folder(&self, container: &Container) -> PathBuf {
        let steps = name::container_steps(container);
        steps
            .iter()
            .fold(self.objects.clone(), |path, step| path.join(step))
    }

    fn file(&self, object: &Object) -> PathBuf {
        let folder = self.folder(object.container());
        name::object_steps(object)
            .iter()
            .fold(folder, |path, step| path.join(step))
    }

    pub(crate) fn create_container(&self, container: &Container) -> Result<(), BlobError> {
        let folder = self.folder(container);
        if let Some(parent) = folder.parent() {
            create_folders(parent).map_err(failed)?;
        }
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(BlobError::ContainerExists),
            created => created.and_then(|()| sync_folder_of(&folder)).map_err(failed),
        }
    }

    pub(crate) fn delete_container(&self, container: &Container) -> Result<(), BlobError> {
        let folder = self.folder(container);
        let away = self.staging.path();
        fs::rename(&folder, &away).map_err(or_no_container)?;
        sync_folder_of(&folder).map_err(failed)?;
        // It is deleted already. What can't be removed now is when the store is opened again.
        if let Err(error) = fs::remove_dir_all(&away) {
            tracing::warn!(target: "weft", %container, %error, "failed to remove the files of a deleted container");
        }
        Ok(())
    }

    pub(crate) fn container_info(&self, container: &Container) -> Result<ContainerInfo, BlobError> {
        let found = fs::metadata(self.folder(container)).map_err(or_no_container)?;
        Ok(ContainerInfo {
            created_at: found.created().or_else(|_| found.modified()).map_err(failed)?,
        })
    }

    pub(crate) fn list(&self, container: &Container, listing: Listing<'_>) -> Result<ObjectPage, BlobError> {
        let limit = listing.limit.clamp(1, PAGE_LEN_MAX);
        // The first names after the cursor, and one more, which tells that there are more.
        let mut first = BTreeSet::new();
        self.visit(container, &mut |name, _| {
            if name.starts_with(listing.prefix) && listing.cursor.is_none_or(|cursor| name.as_str() > cursor)
            {
                first.insert(name);
                if first.len() > limit + 1 {
                    first.pop_last();
                }
            }
            Ok(())
        })?;
        let more = first.len() > limit;
        let names: Vec<_> = first.into_iter().take(limit).collect();
        Ok(ObjectPage {
            cursor: names.last().filter(|_| more).cloned(),
            names,
        })
    }

    pub(crate) fn clear(&self, container: &Container) -> Result<(), BlobError> {
        let mut folders = BTreeSet::new();
        self.visit(container, &mut |_, file| {
            folders.extend(file.parent().map(Path::to_owned));
            remove(file)
        })?;
        folders.iter().try_for_each(|folder| sync_within(folder))
    }

    /// Shows `seen` each object of a container: its name and file.
    fn visit(
        &self,
        container: &Container,
        seen: &mut dyn FnMut(String, &Path) -> Result<(), BlobError>,
    ) -> Result<(), BlobError> {
        walk(&self.folder(container), Step::Object, "", seen).map_err(|error| match error {
            WalkError::Folder(error) => or_no_container(error),
            WalkError::Seen(error) => error,
        })
    }

    /// The containers of one app, or the shared ones.
    pub(crate) fn containers(&self, scope: Option<&(String, String)>) -> Result<Vec<Container>, BlobError> {
        let scope = scope.map(|(namespace, app)| (namespace.as_str(), app.as_str()));
        let steps = name::scope_steps(scope);
        let folder = steps
            .iter()
            .fold(self.objects.clone(), |path, step| path.join(step));
        let mut containers = Vec::new();
        if !fs::exists(&folder).map_err(failed)? {
            return Ok(containers);
        }
        walk(&folder, Step::Container, "", &mut |name, _| {
            containers.extend(name::container(scope, &name));
            check_containers(containers.len())
        })
        .map_err(|error| match error {
            WalkError::Folder(error) => failed(error),
            WalkError::Seen(error) => error,
        })?;
        Ok(containers)
    }

    pub(crate) fn object_info(&self, object: &Object) -> Result<ObjectInfo, BlobError> {
        let found = fs::metadata(self.file(object)).map_err(|error| self.or_no_object(object, error))?;
        Ok(ObjectInfo {
            size: found.len(),
            created_at: found.modified().map_err(failed)?,
        })
    }

    /// The file of an object and its size. It stays readable when the object goes.
    pub(crate) fn open_object(&self, object: &Object) -> Result<(File, u64), BlobError> {
        let file = File::open(self.file(object)).map_err(|error| self.or_no_object(object, error))?;
        let size = file.metadata().map_err(failed)?.len();
        Ok((file, size))
    }

    /// Makes a file the object `to`.
    pub(crate) fn put(&self, staged: Staged, to: &Object) -> Result<(), BlobError> {
        let file = self.place_for(to)?;
        staged.put(&file).map_err(or_no_container)
    }

    /// The path of an object, in folders that are there.
    fn place_for(&self, object: &Object) -> Result<PathBuf, BlobError> {
        let mut path = self.folder(object.container());
        let mut steps = name::object_steps(object);
        let last = steps.pop().unwrap_or_default();
        for step in steps {
            path.push(step);
            match fs::create_dir(&path) {
                Ok(()) => sync_folder_of(&path).map_err(failed)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(or_no_container(error)),
            }
        }
        Ok(path.join(last))
    }

    pub(crate) fn delete(&self, objects: &[Object]) -> Result<(), BlobError> {
        let mut folders = BTreeSet::new();
        for object in objects {
            let folder = self.folder(object.container());
            if !folders.contains(&folder) {
                fs::metadata(&folder).map_err(or_no_container)?;
            }
            let file = self.file(object);
            remove(&file)?;
            folders.extend(file.parent().map(Path::to_owned));
        }
        folders.iter().try_for_each(|folder| sync_within(folder))
    }

    pub(crate) fn copy(&self, from: &Object, to: &Object) -> Result<(), BlobError> {
        let (mut source, _) = self.open_object(from)?;
        fs::metadata(self.folder(to.container())).map_err(or_no_container)?;
        let mut staged = self.staging.file().map_err(failed)?;
        // The system copies, or shares the blocks where it can.
        io::copy(&mut source, &mut staged.file).map_err(failed)?;
        self.put(staged, to)
    }

    pub(crate) fn rename(&self, from: &Object, to: &Object) -> Result<(), BlobError> {
        self.object_info(from)?;
        let (source, target) = (self.file(from), self.place_for(to)?);
        fs::rename(&source, &target).map_err(|error| match self.container_info(to.container()) {
            Ok(_) => self.or_no_object(from, error),
            Err(error) => error,
        })?;
        sync_folder_of(&target).map_err(failed)?;
        sync_folder_of(&source).map_err(failed)
    }

    /// What it means that the file of `object` was not found.
    fn or_no_object(&self, object: &Object, error: io::Error) -> BlobError {
        if error.kind() != ErrorKind::NotFound {
            return failed(error);
        }
        match fs::exists(self.folder(object.container())) {
            Ok(true) => BlobError::NoSuchObject,
            _ => BlobError::NoSuchContainer,
        }
    }
}

enum WalkError {
    Folder(io::Error),
    Seen(BlobError),
}

/// Shows `seen` what a folder has of a kind: its name and its path.
fn walk(
    folder: &Path,
    kind: Step,
    before: &str,
    seen: &mut dyn FnMut(String, &Path) -> Result<(), BlobError>,
) -> Result<(), WalkError> {
    for entry in fs::read_dir(folder).map_err(WalkError::Folder)? {
        let path = entry.map_err(WalkError::Folder)?.path();
        let step = path
            .file_name()
            .and_then(|step| step.to_str())
            .unwrap_or_default();
        if let Some(part) = step.strip_prefix(Step::Part.prefix()) {
            walk(&path, kind, &format!("{before}{part}"), seen)?;
        } else if let Some(part) = step.strip_prefix(kind.prefix())
            // What is no name of ours was put there by someone else.
            && let Some(name) = name::decode(&format!("{before}{part}"))
        {
            seen(name, &path).map_err(WalkError::Seen)?;
        }
    }
    Ok(())
}

/// Makes a folder and those above it, durably.
fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folders(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => created.and_then(|()| sync_folder_of(folder)),
    }
}

fn remove(file: &Path) -> Result<(), BlobError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Makes durable what names a folder has. One that is gone has none.
fn sync_within(folder: &Path) -> Result<(), BlobError> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

fn or_no_container(error: io::Error) -> BlobError {
    match error.kind() {
        ErrorKind::NotFound => BlobError::NoSuchContainer,
        _ => failed(error),
    }
}

pub(crate) fn failed(error: io::Error) -> BlobError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => BlobError::Full,
        _ => BlobError::Backend(Box::new(error)),
    }
}
