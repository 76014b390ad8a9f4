// The stub program as bytes of the library, between ckpt_stub_image and ckpt_stub_image_end.
        .section .rodata
        .globl ckpt_stub_image, ckpt_stub_image_end
        .balign 16
ckpt_stub_image:
        .incbin CKPT_STUB_FILE
ckpt_stub_image_end:
        .section .note.GNU-stack, "", @progbits
