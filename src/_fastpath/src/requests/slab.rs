//! Slots with generations, and intrusive lists through them: constant-time removal from anywhere, no allocation per item.

use std::ops::{Index, IndexMut};

/// No slot.
pub const NONE: u32 = u32::MAX;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values at stable numbers that are used again after removal. Which number a value gets is never visible in results.
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize].value = Some(value);
            return slot;
        }
        self.slots.push(Slot { generation: 0, value: Some(value) });
        (self.slots.len() - 1) as u32
    }

    pub fn remove(&mut self, slot: u32) -> T {
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        place.value.take().expect("a slot is removed once")
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.value.as_ref()
    }

    /// The occupied slots, in an order that must show in no result.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.slots.len() as u32).filter(|slot| self.slots[*slot as usize].value.is_some())
    }

    /// Distinguishes the values that a slot held over time.
    pub fn generation(&self, slot: u32) -> u32 {
        self.slots[slot as usize].generation
    }

    /// Whether the slot still holds the value it held at this generation.
    pub fn holds(&self, slot: u32, generation: u32) -> bool {
        let place = &self.slots[slot as usize];
        place.generation == generation && place.value.is_some()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, slot: u32) -> &T {
        self.slots[slot as usize].value.as_ref().expect("an occupied slot")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        self.slots[slot as usize].value.as_mut().expect("an occupied slot")
    }
}

/// The neighbours of an item in one list.
#[derive(Clone, Copy)]
pub struct Link {
    previous: u32,
    next: u32,
}

pub const UNLINKED: Link = Link { previous: NONE, next: NONE };

/// An item that can be in as many lists at once as it has links.
pub trait Linked {
    fn link(&self, which: usize) -> &Link;
    fn link_mut(&mut self, which: usize) -> &mut Link;
}

/// A doubly linked list through the items' link number `LINK`.
#[derive(Clone, Copy)]
pub struct List<const LINK: usize> {
    pub head: u32,
    pub tail: u32,
    pub len: u32,
}

impl<const LINK: usize> Default for List<LINK> {
    fn default() -> Self {
        List { head: NONE, tail: NONE, len: 0 }
    }
}

impl<const LINK: usize> List<LINK> {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn next<T: Linked>(slab: &Slab<T>, slot: u32) -> u32 {
        slab[slot].link(LINK).next
    }

    pub fn push_back<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        *slab[slot].link_mut(LINK) = Link { previous: self.tail, next: NONE };
        match self.tail {
            NONE => self.head = slot,
            tail => slab[tail].link_mut(LINK).next = slot,
        }
        self.tail = slot;
        self.len += 1;
    }

    pub fn push_front<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        *slab[slot].link_mut(LINK) = Link { previous: NONE, next: self.head };
        match self.head {
            NONE => self.tail = slot,
            head => slab[head].link_mut(LINK).previous = slot,
        }
        self.head = slot;
        self.len += 1;
    }

    pub fn remove<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        let Link { previous, next } = *slab[slot].link(LINK);
        match previous {
            NONE => self.head = next,
            previous => slab[previous].link_mut(LINK).next = next,
        }
        match next {
            NONE => self.tail = previous,
            next => slab[next].link_mut(LINK).previous = previous,
        }
        *slab[slot].link_mut(LINK) = UNLINKED;
        self.len -= 1;
    }

    /// The slots of the list, for loops that change it on the way.
    pub fn slots<T: Linked>(&self, slab: &Slab<T>) -> Vec<u32> {
        let mut out = Vec::with_capacity(self.len as usize);
        let mut slot = self.head;
        while slot != NONE {
            out.push(slot);
            slot = Self::next(slab, slot);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Item(u32, [Link; 2]);

    impl Linked for Item {
        fn link(&self, which: usize) -> &Link {
            &self.1[which]
        }
        fn link_mut(&mut self, which: usize) -> &mut Link {
            &mut self.1[which]
        }
    }

    fn values(list: &List<1>, slab: &Slab<Item>) -> Vec<u32> {
        list.slots(slab).iter().map(|slot| slab[*slot].0).collect()
    }

    #[test]
    fn lists_keep_order_under_removal_anywhere() {
        let mut slab = Slab::default();
        let mut list = List::<1>::default();
        let slots: Vec<u32> = (0..5).map(|value| slab.insert(Item(value, [UNLINKED; 2]))).collect();
        for slot in &slots[1..] {
            list.push_back(&mut slab, *slot);
        }
        list.push_front(&mut slab, slots[0]);
        assert_eq!(values(&list, &slab), [0, 1, 2, 3, 4]);
        for (gone, left) in [(2, vec![0, 1, 3, 4]), (0, vec![1, 3, 4]), (4, vec![1, 3]), (1, vec![3]), (3, vec![])] {
            list.remove(&mut slab, slots[gone]);
            assert_eq!(values(&list, &slab), left);
        }
        assert!(list.is_empty() && list.head == NONE && list.tail == NONE);
    }

    #[test]
    fn generations_tell_old_values_from_new() {
        let mut slab = Slab::default();
        let first = slab.insert(Item(1, [UNLINKED; 2]));
        let generation = slab.generation(first);
        assert!(slab.holds(first, generation));
        slab.remove(first);
        assert!(!slab.holds(first, generation));
        assert_eq!(slab.insert(Item(2, [UNLINKED; 2])), first);
        assert!(!slab.holds(first, generation));
        assert_eq!(slab.len(), 1);
    }
}
