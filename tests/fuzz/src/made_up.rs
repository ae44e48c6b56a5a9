//! A made-up box for the registry: what is diverted, watched and alive is written down, and
//! compared with what the registry shows.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry::{
    Adopted, AliveSocket, Error, Grant, News, Registry, RegistryConfig, Row, Way, World, flags,
};
use tables::{FlowTable, Lookup, OwnerId, Registrations};
use tempfile::TempDir;
use wire::{Endpoint, Protocol};

/// Addresses of the box.
pub const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
/// The TCP port of a management entry.
pub const MANAGED: u16 = 22;
/// Who is granted 203.0.113.0/24.
pub const USER: u32 = 13;
/// Which group is granted 198.51.100.0/24.
pub const GROUP: u32 = 50;
/// Nobody registers anything about this peer.
const ANYBODY: Endpoint = Endpoint::new(Ipv4Addr::new(192, 0, 2, 99), 9);
/// More goes of upkeep than there is work for.
const GOES: usize = 100;
/// The bits that make packets change.
const ACTIVE: u32 = flags::CONNECT | flags::LISTEN | flags::ESTABLISHED;

/// How often each endpoint is diverted.
pub type Steering = BTreeMap<(Protocol, Endpoint, Way), usize>;

/// What is so on the made-up box.
#[derive(Default)]
pub struct Books {
    /// What is diverted.
    pub diverted: Steering,
    /// Whose closing is told, and whether what they open must be translated.
    pub watched: BTreeMap<u64, bool>,
    /// What has closed and was not told yet.
    pub news: Vec<u64>,
    /// Some were lost.
    pub is_news_lost: bool,
    /// All sockets.
    pub alive: HashMap<u64, AliveSocket>,
}

/// How much the box has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Diverted endpoints.
    pub endpoints: usize,
    /// Watched sockets.
    pub watches: usize,
    /// Registrations.
    pub registrations: usize,
    /// Owners.
    pub owners: u32,
}

/// More than any input needs.
pub const ENOUGH: Room = Room {
    endpoints: usize::MAX,
    watches: usize::MAX,
    registrations: 64,
    owners: 128,
};

struct MadeUp {
    books: Arc<Mutex<Books>>,
    room: Room,
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World for MadeUp {
    fn divert(&mut self, proto: Protocol, at: Endpoint, way: Way) -> io::Result<()> {
        let mut books = lock(&self.books);
        if books.diverted.values().sum::<usize>() >= self.room.endpoints {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *books.diverted.entry((proto, at, way)).or_insert(0) += 1;
        Ok(())
    }

    fn release(&mut self, proto: Protocol, at: Endpoint, way: Way) {
        let mut books = lock(&self.books);
        let left = match books.diverted.get_mut(&(proto, at, way)) {
            Some(users) => {
                *users -= 1;
                *users
            }
            None => panic!("{at} {way:?} is released and was not diverted"),
        };
        if left == 0 {
            books.diverted.remove(&(proto, at, way));
        }
    }

    fn watch(&mut self, cookie: u64, shows: bool) -> io::Result<()> {
        let mut books = lock(&self.books);
        let is_new = !books.watched.contains_key(&cookie);
        if is_new && books.watched.len() >= self.room.watches {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let before = books.watched.insert(cookie, shows);
        assert_ne!(before, Some(shows), "{cookie} is watched twice");
        Ok(())
    }

    fn forget(&mut self, cookie: u64) {
        let was_watched = lock(&self.books).watched.remove(&cookie).is_some();
        assert!(was_watched, "{cookie} is forgotten and was not watched");
    }

    fn closed(&mut self, gone: &mut Vec<u64>, most: usize) -> io::Result<News> {
        let mut books = lock(&self.books);
        let some = books.news.len().min(most);
        gone.extend(books.news.drain(..some));
        Ok(News {
            lost: std::mem::take(&mut books.is_news_lost),
            more: !books.news.is_empty(),
        })
    }

    fn alive(&mut self) -> io::Result<HashMap<u64, AliveSocket>> {
        Ok(lock(&self.books).alive.clone())
    }

    fn is_own(&self, addr: Ipv4Addr) -> bool {
        OWN.contains(&addr) || addr.is_loopback()
    }

    fn is_management(&self, proto: Protocol, port: u16) -> bool {
        proto == Protocol::TCP && port == MANAGED
    }
}

/// A registry on a made-up box.
pub struct Daemon {
    /// The registry.
    pub registry: Registry,
    /// What it took over.
    pub adopted: Adopted,
    /// The flow table.
    pub flows: Arc<FlowTable>,
    /// Nanoseconds of its clock.
    pub now_ns: u64,
    table: Arc<Registrations>,
    books: Arc<Mutex<Books>>,
}

impl Daemon {
    /// Starts it on a box with these sockets. Steering and watch of an earlier one went with it.
    ///
    /// # Errors
    /// The registry's.
    pub fn start(dir: &Path, alive: HashMap<u64, AliveSocket>, room: Room) -> Result<Self, Error> {
        let flows = Arc::new(FlowTable::new(64, room.owners, 7));
        let table = Arc::new(Registrations::new(room.registrations, 7));
        let books = Arc::new(Mutex::new(Books {
            alive,
            ..Books::default()
        }));
        let world = MadeUp {
            books: Arc::clone(&books),
            room,
        };
        let now_ns = 1_000_000_000;
        let config = RegistryConfig {
            flows: Arc::clone(&flows),
            table: Arc::clone(&table),
            grants: grants(),
            // A choice of one, so that the same bytes do the same.
            ports: 30_000..=30_000,
            dir: dir.to_owned(),
            now_ns,
        };
        let (registry, adopted) = Registry::open(config, Box::new(world))?;
        Ok(Self {
            registry,
            adopted,
            flows,
            now_ns,
            table,
            books,
        })
    }

    /// What is so on the box.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// What the registry does some ten times a second.
    ///
    /// # Panics
    /// If there is no end to it.
    pub fn upkeep(&mut self) {
        let has_more = |_: &usize| self.registry.upkeep(self.now_ns);
        let goes = (0..GOES).take_while(has_more).count();
        assert!(goes < GOES, "upkeep without end");
    }

    /// Every registration, without its age.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.registry.rows(self.now_ns);
        rows.iter_mut().for_each(|row| row.age_ns = 0);
        rows
    }

    /// Lets sockets be closed; those that are watched are told.
    pub fn close(&mut self, cookies: impl IntoIterator<Item = u64>) {
        let mut books = self.books();
        for cookie in cookies {
            books.alive.remove(&cookie);
            if books.watched.contains_key(&cookie) {
                books.news.push(cookie);
            }
        }
    }

    /// Compares the box's books and the workers' table with the registry's rows.
    ///
    /// # Panics
    /// If they do not agree.
    pub fn balance(&self) {
        let rows = self.rows();
        let live = rows.iter().filter(|row| !row.is_orphan).count();
        let counts = self.registry.counts();
        assert_eq!(counts.live as usize, live);
        assert_eq!(counts.orphaned as usize, rows.len() - live);
        assert_eq!(self.table.counts().0, live);
        let books = self.books();
        assert_eq!(books.watched.len(), live);
        let shows = rows.iter().filter(|row| !row.is_orphan && shows(row));
        let shown = books.watched.values().filter(|shows| **shows);
        assert_eq!(shown.count(), shows.count(), "who shows a foreign address");
        let (needed, at_most) = steering(&rows);
        for (at, users) in &needed {
            let diverted = books.diverted.get(at);
            assert!(diverted >= Some(users), "{at:?} may leave untranslated");
        }
        for (at, users) in &books.diverted {
            let most = at_most.get(at);
            assert!(most >= Some(users), "{at:?} stays diverted for nobody");
        }
        for row in rows.iter().filter(|row| !row.is_orphan) {
            self.assert_found(row);
        }
    }

    /// What the box sends from a registered endpoint is known to be its owner's.
    fn assert_found(&self, row: &Row) {
        let peer = row.peer.map_or(ANYBODY, end);
        let found = self.table.owner(row.proto, end(row.local), peer);
        let Lookup::Found(found) = found else {
            panic!("{row:?} is not found: {found:?}");
        };
        let shown = ACTIVE | flags::UNIDIR;
        assert_eq!(
            (found.owner, found.foreign, found.uses.0),
            (OwnerId(row.owner), end(row.foreign), row.flags & shown)
        );
    }
}

/// Whether what the socket opens carries the foreign address.
fn shows(row: &Row) -> bool {
    let is_mark = row.foreign.ip().is_unspecified();
    !is_mark && row.flags & (flags::CONNECT | flags::ESTABLISHED) != 0
}

/// What has to be diverted for these registrations, and what may be, because their flags may
/// have been others before.
#[must_use]
pub fn steering(rows: &[Row]) -> (Steering, Steering) {
    let (mut needed, mut at_most) = (Steering::new(), Steering::new());
    for row in rows {
        let is_mark = row.foreign.ip().is_unspecified();
        let local = (row.proto, end(row.local), Way::Both);
        let foreign = (row.proto, end(row.foreign), Way::Inbound);
        let sends = !is_mark && row.flags & ACTIVE != 0;
        let takes = !is_mark && row.foreign.port() != 0 && row.flags & flags::LISTEN != 0;
        for (at, is_needed) in [(local, sends), (foreign, takes)] {
            *at_most.entry(at).or_insert(0) += 1;
            if is_needed {
                *needed.entry(at).or_insert(0) += 1;
            }
        }
    }
    (needed, at_most)
}

/// A folder of one's own: in memory, where there is such a place, because it is used often.
///
/// # Panics
/// If there is no room for one.
#[must_use]
pub fn folder() -> TempDir {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    made.unwrap_or_else(|error| panic!("no folder: {error}"))
}

/// The endpoint of an address.
#[must_use]
pub const fn end(at: SocketAddrV4) -> Endpoint {
    Endpoint::new(*at.ip(), at.port())
}

/// Whether a registration of this foreign address is granted; a plain reading of [`grants`].
#[must_use]
pub fn is_granted(uid: u32, gids: &[u32], foreign: Ipv4Addr) -> bool {
    let [a, b, c, _] = foreign.octets();
    let is_mark = foreign.is_unspecified();
    uid == 0
        || (uid == USER && (is_mark || [a, b, c] == [203, 0, 113]))
        || (gids.contains(&GROUP) && (is_mark || [a, b, c] == [198, 51, 100]))
}

fn grants() -> Vec<Grant> {
    let grant = |uid, gid, net: &str| match net.parse() {
        Ok(net) => Grant {
            uid,
            gid,
            foreign: vec![net],
        },
        Err(error) => panic!("{net}: {error}"),
    };
    vec![
        grant(Some(USER), None, "203.0.113.0/24"),
        grant(None, Some(GROUP), "198.51.100.0/24"),
    ]
}
