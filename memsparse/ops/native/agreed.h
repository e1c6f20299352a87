/* Numbers that Python and C agree upon; `library.py` has them too. */

#ifndef MEMSPARSE_AGREED_H
#define MEMSPARSE_AGREED_H

enum kind { INT8, BFLOAT16, FLOAT32, INT8_BY_FLOAT32, INT8_BY_TILES, BFLOAT16_BY_TILES };
enum problem { NONE, NO_SUCH_KERNEL, NO_MEMORY, DOCUMENT_OUTSIDE, DOCUMENTS_MIXED, RUN_OUTSIDE, NOT_A_NUMBER };
enum change { NORM, ROTATION, GATE };

#endif
