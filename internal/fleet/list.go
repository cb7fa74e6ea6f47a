package fleet

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ParseList reads a list of machines as it is given on a command line: names,
// ranges and groups, as in pc-[001-020],srv[1-3,7].example,@floor2. Groups, and
// the settings of machines that are in it, come from inv, which may be nil.
func ParseList(list string, inv *Inventory) ([]Machine, error) {
	if inv == nil {
		inv = newInventory()
	}
	var machines []Machine
	in := map[string]string{} // machine: the item that names it
	items, err := splitList(list)
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		found, err := inv.find(item, MaxMachines-len(machines))
		if err != nil {
			return nil, err
		}
		for _, m := range found {
			key := strings.ToLower(m.Name)
			if before, ok := in[key]; ok {
				return nil, fmt.Errorf("%s is named twice, by %q and by %q; leave one out", m.Name, before, item)
			}
			in[key] = item
		}
		machines = append(machines, found...)
	}
	return machines, nil
}

// find returns the machines of one item.
func (inv *Inventory) find(item string, limit int) ([]Machine, error) {
	if group, ok := strings.CutPrefix(item, "@"); ok {
		machines, ok := inv.Group(group)
		switch {
		case !ok && len(inv.groups) == 0:
			return nil, fmt.Errorf("there is no group %q: groups come from a hosts file, and none is given that has any", group)
		case !ok:
			return nil, fmt.Errorf("there is no group %q; there are %s", group, strings.Join(slices.Sorted(maps.Keys(inv.groups)), ", "))
		case len(machines) == 0:
			return nil, fmt.Errorf("group %q has no machines", group)
		case len(machines) > limit:
			return nil, errTooMany
		}
		return machines, nil
	}
	names, err := expand(item, limit)
	if err != nil {
		return nil, err
	}
	machines := make([]Machine, len(names))
	for i, name := range names {
		m, ok := inv.byName[strings.ToLower(name)]
		if !ok {
			m = Machine{Name: name, Kind: KindSMB}
		}
		machines[i] = m
	}
	return machines, nil
}

// splitList cuts a list at its commas, but for those in brackets.
func splitList(list string) (items []string, err error) {
	depth, from := 0, 0
	for i := 0; i <= len(list); i++ {
		switch {
		case i < len(list) && list[i] == '[':
			depth++
		case i < len(list) && list[i] == ']':
			depth--
		case i == len(list) || list[i] == ',' && depth <= 0:
			item := strings.TrimSpace(list[from:i])
			if item == "" {
				return nil, errors.New("a name is missing in the list of machines: it is empty, or a comma is too many")
			}
			items, from = append(items, item), i+1
		}
	}
	return items, nil
}
