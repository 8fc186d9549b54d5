;; A guest for wasm-sandbox. It takes any JSON value and answers
;;   {"greeting":"hello from wasm","bytes":<length of the input>,"input":<the input>}
;;
;; The ABI: export `memory`, `alloc(length) -> pointer`, and `execute(pointer, length) -> pointer << 32 | length`.
(module
  (memory (export "memory") 1)

  (data (i32.const 0) "{\"greeting\":\"hello from wasm\",\"bytes\":")  ;; 38 bytes
  (data (i32.const 48) ",\"input\":")                                  ;; 9 bytes

  ;; The first free address. Nothing is given back: an instance lives for one call.
  (global $next (mut i32) (i32.const 1024))

  (func $alloc (export "alloc") (param $length i32) (result i32)
    (local $pointer i32)
    (local.set $pointer (global.get $next))
    (global.set $next (i32.add (global.get $next) (local.get $length)))
    ;; Grows the memory when the block does not fit, and traps when it may not grow.
    (if (i32.gt_u (global.get $next) (i32.shl (memory.size) (i32.const 16)))
      (then
        (if (i32.eq
              (memory.grow (i32.add (i32.shr_u (local.get $length) (i32.const 16)) (i32.const 1)))
              (i32.const -1))
          (then unreachable))))
    (local.get $pointer))

  (func $append (param $to i32) (param $from i32) (param $length i32) (result i32)
    (memory.copy (local.get $to) (local.get $from) (local.get $length))
    (i32.add (local.get $to) (local.get $length)))

  ;; Writes a number in decimal and returns the address after it.
  (func $append_number (param $to i32) (param $value i32) (result i32)
    (if (i32.ge_u (local.get $value) (i32.const 10))
      (then
        (local.set $to
          (call $append_number (local.get $to) (i32.div_u (local.get $value) (i32.const 10))))))
    (i32.store8 (local.get $to)
      (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10))))
    (i32.add (local.get $to) (i32.const 1)))

  (func (export "execute") (param $input i32) (param $length i32) (result i64)
    (local $output i32)
    (local $end i32)
    (local.set $output (call $alloc (i32.add (local.get $length) (i32.const 64))))
    (local.set $end (call $append (local.get $output) (i32.const 0) (i32.const 38)))
    (local.set $end (call $append_number (local.get $end) (local.get $length)))
    (local.set $end (call $append (local.get $end) (i32.const 48) (i32.const 9)))
    (local.set $end (call $append (local.get $end) (local.get $input) (local.get $length)))
    (i32.store8 (local.get $end) (i32.const 125))
    (local.set $end (i32.add (local.get $end) (i32.const 1)))
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $output)) (i64.const 32))
      (i64.extend_i32_u (i32.sub (local.get $end) (local.get $output))))))
