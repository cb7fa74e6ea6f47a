//go:build linux

package winetest

import (
	"reflect"
	"testing"
)

// What Wine's server writes is read here as other tests read it.
func TestSecurityRequests(t *testing.T) {
	const trace = `0034: init_first_thread( unix_pid=20028, unix_tid=20028, debug_level=0, reply_fd=6, wait_fd=8 )
0034: init_first_thread() = 0 { pid=0030, tid=0034, server_start=1dd7b963e7dc83a (-0.0351140), session_id=00000001, info_size=3398, machines={8664,014c} }
0034: new_thread( process=ffffffff, access=001fffff, flags=00000000, request_fd=7, objattr={} )
0034: new_thread() = 0 { tid=0044, handle=007c }
0044: create_file( access=80100000, sharing=00000001, create=2, options=00000021, attrs=00000080, objattr={rootdir=0000,attributes=00000040,sd={control=00001004,owner=S-1-5-32-544,group=<not present>,sacl={},dacl={{type=ACCESS_ALLOWED,flags=3,mask=12008d,sid=S-1-5-11},{type=ACCESS_DENIED,flags=0,mask=1f01ff,sid=S-1-5-18}}},name=L"\\??\\C:\\data\\MED-V Images"}, filename="/x" )
0044: create_file() = 0 { handle=0040 }
0044: create_file( access=80100000, sharing=00000001, create=2, options=00000021, attrs=00000080, objattr={rootdir=0000,attributes=00000040,sd={control=00001004,owner=S-1-5-32-544,group=<not present>,sacl={},dacl={{type=ACCESS_ALLOWED,flags=3,mask=12008d,sid=S-1-5-11}}},name=L"\\??\\C:\\there"}, filename="/x" )
0044: create_file() = OBJECT_NAME_COLLISION { handle=0000 }
0044: create_file( access=001e0080, sharing=00000007, create=1, options=00004020, attrs=00000000, objattr={rootdir=0040,attributes=00000040,sd={},name=L"in it"}, filename="/x" )
0044: create_file() = 0 { handle=0064 }
0034: set_security_object( handle=0064, security_info=80000004, sd={control=00001004,owner=<not present>,group=<not present>,sacl={},dacl={{type=ACCESS_ALLOWED,flags=3,mask=1f01ff,sid=S-1-5-32-544}}} )
0034: set_security_object() = 0
0034: close_handle( handle=0064 )
0034: set_security_object( handle=0064, security_info=00000004, sd={control=00000004,owner=<not present>,group=<not present>,sacl={},dacl={}} )
`
	want := []SecurityRequest{
		{Path: `C:\data\MED-V Images`, Created: true, Control: 0x1004, Owner: "S-1-5-32-544",
			Entries: []Entry{{"ACCESS_ALLOWED", 3, 0x12008d, "S-1-5-11"}, {"ACCESS_DENIED", 0, 0x1f01ff, "S-1-5-18"}}},
		{Path: `C:\data\MED-V Images\in it`, Info: 0x80000004, Control: 0x1004, Owner: "<not present>",
			Entries: []Entry{{"ACCESS_ALLOWED", 3, 0x1f01ff, "S-1-5-32-544"}}},
		{Info: 4, Control: 4, Owner: "<not present>"},
	}
	if got := SecurityRequests(trace); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
}
