//! Who is connected, noted for whoever tells others.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::domain::UserId;

/// Users of whom it is noted that they came or went and not taken yet: 65,536 x about 70 bytes = 4.6 MB. Beyond it nothing is
/// noted: those who are here are said again and again anyway, and those who went are forgotten if they are not.
const CHANGED_MAX: usize = 65_536;

/// The users of a gateway's connections, and whose first one came or last one went since that was last taken.
#[derive(Default)]
pub struct Users(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    /// Connections of each: no more users than there are connections.
    connections: HashMap<UserId, u32>,
    changed: HashSet<UserId>,
}

impl Noted {
    fn change(&mut self, user: UserId) {
        if self.changed.len() < CHANGED_MAX {
            self.changed.insert(user);
        }
    }
}

impl Users {
    pub fn came(&self, user: UserId) {
        let mut noted = self.0.lock();
        let connections = noted.connections.entry(user).or_default();
        *connections += 1;
        if *connections == 1 {
            noted.change(user);
        }
    }

    pub fn went(&self, user: &UserId) {
        let mut noted = self.0.lock();
        let Some(connections) = noted.connections.get_mut(user) else { return };
        *connections -= 1;
        if *connections == 0 {
            noted.connections.remove(user);
            noted.change(*user);
        }
    }

    /// Takes up to `count` of those that changed: who is here, and who is not.
    pub(in crate::actors) fn take_changed(&self, count: usize) -> (Vec<UserId>, Vec<UserId>) {
        let mut noted = self.0.lock();
        let some: Vec<UserId> = noted.changed.iter().take(count).copied().collect();
        some.iter().for_each(|user| _ = noted.changed.remove(user));
        some.into_iter().partition(|user| noted.connections.contains_key(user))
    }

    /// Puts back what was taken and could not be told.
    pub(in crate::actors) fn put_back(&self, users: &[UserId]) {
        let mut noted = self.0.lock();
        users.iter().for_each(|user| noted.change(*user));
    }

    pub(in crate::actors) fn is_here(&self, user: &UserId) -> bool {
        self.0.lock().connections.contains_key(user)
    }

    /// All who are here.
    pub(in crate::actors) fn all(&self) -> Vec<UserId> {
        self.0.lock().connections.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn the_first_connection_and_the_last_are_noted_and_none_between() {
        let (users, [ann, bob]) = (Users::default(), ["ann", "bob"].map(user));
        assert_eq!(users.take_changed(9), (vec![], vec![]));
        users.came(ann);
        users.came(ann);
        assert_eq!(users.take_changed(9), (vec![ann], vec![]));
        users.went(&ann);
        users.came(ann);
        assert_eq!(users.take_changed(9), (vec![], vec![]), "still here");
        users.came(bob);
        users.went(&ann);
        users.went(&ann);
        assert_eq!(users.take_changed(9), (vec![bob], vec![ann]));
        assert!(users.is_here(&bob) && !users.is_here(&ann));
        assert_eq!(users.all(), [bob]);
        users.went(&ann);
        assert_eq!(users.take_changed(9), (vec![], vec![]), "who is not here cannot go");
    }

    #[test]
    fn who_comes_and_goes_before_that_is_taken_is_told_as_gone() {
        let (users, ann) = (Users::default(), user("ann"));
        users.came(ann);
        users.went(&ann);
        assert_eq!(users.take_changed(9), (vec![], vec![ann]));
        users.put_back(&[ann]);
        users.came(ann);
        assert_eq!(users.take_changed(9), (vec![ann], vec![]), "as it is when it is taken");
    }

    #[test]
    fn no_more_changes_are_kept_than_the_bound() {
        let users = Users::default();
        for n in 0..CHANGED_MAX + 10 {
            users.came(user(&format!("u{n}")));
        }
        assert_eq!(users.all().len(), CHANGED_MAX + 10);
        let mut taken = 0;
        loop {
            let (here, gone) = users.take_changed(1_000);
            assert_eq!(gone, []);
            if here.is_empty() {
                break;
            }
            taken += here.len();
        }
        assert_eq!(taken, CHANGED_MAX);
    }
}
